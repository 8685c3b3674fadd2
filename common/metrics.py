"""Prometheus metrics: those of every service, and the server on METRICS_PORT.

The server runs in the event loop of the service, not in a thread: the metrics need no lock and are of one moment, the
server ends with the service, and a service whose loop hangs is a target that is down.
"""

import logging
import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.errors import Refused, Unavailable
from common.settings import Settings
from common.version import project_version
from common.web.guard import Guard, hosts_at
from common.web.limits import Limits
from common.web.server import serving

log = logging.getLogger(__name__)

# The text format that every version of Prometheus reads, and people too.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Histograms of send times have a bucket up to each of these, in microseconds: 256 µs to 67 s, doubling.
OCTAVES = range(8, 27)
# Few clients scrape, and none may delay the end of a service.
LIMITS = Limits(connections=100, connections_per_address=100, grace_s=0.1)


class _BuildInfo:
    """The version that runs: always 1, with labels."""

    def __init__(self, service: str) -> None:
        self._labels = {
            "service": service,
            "version": project_version(),
            "python": platform.python_version(),
        }

    def collect(self) -> list[GaugeMetricFamily]:
        info = GaugeMetricFamily(
            "smsim_build_info", "Always 1; the version that runs.", labels=list(self._labels)
        )
        info.add_metric(list(self._labels.values()), 1)
        return [info]


def new_registry(service: str, *collectors: Collector) -> CollectorRegistry:
    """The registry of a service: its collectors, its version, its process and the garbage collector."""
    # Otherwise each counter has a second series, `_created`. The function ships without types.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    for collector in (_BuildInfo(service), *collectors):
        registry.register(collector)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def time_histogram(
    name: str, documentation: str, octaves: Mapping[int, int], total_us: int
) -> HistogramMetricFamily:
    """A histogram in seconds of times counted by octave: octave k holds 2**k to 2**(k + 1) microseconds.

    As in the ledger (common/ledger/histogram.py), the edges are off by a microsecond or two.
    """
    below = sum(count for octave, count in octaves.items() if octave < OCTAVES[0])
    buckets = []
    for edge in OCTAVES:
        buckets.append((f"{2**edge / 1e6:.6f}", float(below)))
        below += octaves.get(edge, 0)
    buckets.append(("+Inf", float(sum(octaves.values()))))
    return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=total_us / 1e6)


async def _nothing() -> None:
    pass


@asynccontextmanager
async def metrics_served(
    settings: Settings,
    registry: CollectorRegistry,
    refresh: Callable[[], Awaitable[None]] = _nothing,
) -> AsyncIterator[None]:
    """Serves GET /metrics on METRICS_HOST and METRICS_PORT during the block; does nothing if the port is not set.

    `refresh` is awaited before each answer. Raises Refused if it can't listen.
    """
    if settings.metrics_port is None:
        yield
        return

    async def show(_: Request) -> Response:
        await refresh()
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE})

    host, port = settings.metrics_host, settings.metrics_port
    app = Guard(Starlette(routes=[Route("/metrics", show)]), hosts_at(host))
    async with AsyncExitStack() as stack:
        try:
            bound = await stack.enter_async_context(serving(app, host, port, LIMITS))
        except Unavailable as error:
            raise Refused(
                f"METRICS_HOST={host}, METRICS_PORT={port}: {error}; set another port, 0 for any that is free, or none"
            ) from None
        log.info("metrics_served", extra={"port": bound})
        yield
