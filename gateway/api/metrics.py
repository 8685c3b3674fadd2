"""What the gateway shows to Prometheus, and GET /metrics."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from starlette.requests import Request
from starlette.responses import Response

from common.broker.port import Broker
from common.errors import SmsimError
from common.messages import Lane
from common.metrics import CONTENT_TYPE, new_registry
from common.web.operations import Answer, Operation, Scope

# Buckets for the duration of a request: a write takes some milliseconds, a long poll up to a minute.
TIMES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# Label values are bounded: what clients may choose freely counts as this.
OTHER = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
EXAMPLE = """\
# HELP smsim_gateway_messages_accepted_total Messages that were answered 202.
# TYPE smsim_gateway_messages_accepted_total counter
smsim_gateway_messages_accepted_total{lane="bulk"} 17.0
"""

# Why subscriptions to the events ended, by close code of RFC 6455 §7.4.
REASONS = {1001: "shutdown", 1008: "key", 1013: "slow"}


class _Bound(NamedTuple):
    """The counters of one operation, method and status. Looking them up costs more than counting."""

    requests: Counter
    times: Histogram


class GatewayMetrics:
    """Counts what the gateway does. Other services in the same process add their collectors to `registry`.

    A scrape asks the broker for queue depths, no more often than every `depths_every_s`, for `depths_within_s` at most.
    """

    def __init__(self, broker: Broker, depths_every_s: float = 5.0, depths_within_s: float = 2.0) -> None:
        self._broker = broker
        self._depths_every_s = depths_every_s
        self._depths_within_s = depths_within_s
        self.registry = new_registry("gateway")
        self._requests = self._counter("requests", "Requests answered.", "operation", "method", "status")
        self._times = Histogram(
            "smsim_gateway_request_duration_seconds",
            "How long they took.",
            ("operation", "method"),
            buckets=TIMES_S,
            registry=self.registry,
        )
        accepted = self._counter("messages_accepted", "Messages that were answered 202.", "lane")
        self._accepted = {lane: accepted.labels(lane.value) for lane in Lane}
        self._pending = self._gauge("messages_pending", "Messages that wait to be accepted.")
        self._clients = self._gauge("event_clients", "Clients that listen to events.")
        self._broker_up = self._gauge(
            "broker_connected", "1 while RabbitMQ answers with queue depths, else 0."
        )
        self._depths = Gauge(
            "smsim_queue_bodies", "Bodies that wait in a queue.", ("queue",), registry=self.registry
        )
        self._bound: dict[tuple[str, str, int], _Bound] = {}
        self._looked_s = float("-inf")
        self._looking = asyncio.Lock()

    def observe(self, operation: str | None, method: str, status: int, time_s: float) -> None:
        """Counts an answered request. `operation` is the path of its Operation, `/sms/{uuid}`; None if it has none."""
        key = (operation or OTHER, method, status)
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bind(*key)
        bound.requests.inc()
        bound.times.observe(time_s)

    def accepted(self, lane: Lane, messages: int = 1) -> None:
        """Counts messages that were answered 202."""
        self._accepted[lane].inc(messages)

    def watch_pending(self, pending: Callable[[], int]) -> None:
        """`pending` gives the number of messages that wait to be accepted, at each scrape."""
        self._pending.set_function(pending)

    def watch_events(self, clients: Callable[[], int], dropped: Mapping[int, int]) -> None:
        """`clients` and `dropped` give, at each scrape, the clients of the events and those dropped by close code."""
        self._clients.set_function(clients)
        self.registry.register(_Dropped(dropped))

    async def refresh(self) -> None:
        """Asks the broker for queue depths, unless it was asked a moment ago."""
        async with self._looking:
            if time.monotonic() - self._looked_s < self._depths_every_s:
                return
            try:
                async with asyncio.timeout(self._depths_within_s):
                    self._show_depths(await self._broker.depths(refresh=False))
            except (SmsimError, TimeoutError):
                self._show_depths(None)
            self._looked_s = time.monotonic()

    def operations(self) -> list[Operation]:
        """GET /metrics."""
        return [
            Operation(
                method="GET",
                path="/metrics",
                handler=self._show,
                scope=Scope.READ,
                tag="operation",
                summary="Metrics for Prometheus",
                description="Also on METRICS_PORT, where that is set, without an API key.",
                answers={
                    200: Answer(
                        "in Prometheus's text format", kind=str, example=EXAMPLE, media_type="text/plain"
                    ),
                },
            )
        ]

    async def _show(self, _: Request) -> Response:
        await self.refresh()
        return Response(generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE})

    def _bind(self, operation: str, method: str, status: int) -> _Bound:
        word = method if method in METHODS else OTHER
        bound = _Bound(
            self._requests.labels(operation, word, str(status)), self._times.labels(operation, word)
        )
        if method in METHODS:  # clients may invent any number of others
            self._bound[operation, method, status] = bound
        return bound

    def _show_depths(self, depths: Mapping[str, int] | None) -> None:
        self._broker_up.set(depths is not None)
        self._depths.clear()
        for queue, bodies in (depths or {}).items():
            self._depths.labels(queue).set(bodies)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"smsim_gateway_{name}", documentation, labels, registry=self.registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(f"smsim_gateway_{name}", documentation, labels, registry=self.registry)


class _Dropped:
    """Collects what is counted by close code elsewhere."""

    def __init__(self, dropped: Mapping[int, int]) -> None:
        self._dropped = dropped

    def collect(self) -> Iterator[CounterMetricFamily]:
        counts = dict.fromkeys((*REASONS.values(), OTHER), 0)
        for code, clients in self._dropped.items():
            counts[REASONS.get(code, OTHER)] += clients
        family = CounterMetricFamily(
            "smsim_gateway_event_clients_dropped",
            "Clients of the events that were dropped.",
            labels=["reason"],
        )
        for reason, clients in counts.items():
            family.add_metric([reason], clients)
        yield family
