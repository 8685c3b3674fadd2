"""The gateway's metrics for Prometheus, and GET /metrics."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from starlette.requests import Request
from starlette.responses import Response

from common.broker.port import Broker
from common.errors import SmsimError
from common.messages import Lane
from common.metrics import CONTENT_TYPE, new_registry
from common.web.operations import Answer, Operation, Scope
from gateway.acceptance.port import Kept

PREFIX = "smsim_gateway"
# Buckets for the duration of a request: a write takes some milliseconds, a long poll up to a minute.
TIMES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# Label values are bounded: what clients may choose freely counts as this.
OTHER = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Why subscriptions to the events ended, by close code of RFC 6455 §7.4.
REASONS = {1001: "shutdown", 1008: "key", 1013: "slow"}

EXAMPLE = """\
# HELP smsim_gateway_messages_accepted_total Messages that were answered 202.
# TYPE smsim_gateway_messages_accepted_total counter
smsim_gateway_messages_accepted_total{lane="bulk"} 17.0
"""


class GatewayMetrics:
    """Counts what the gateway does.

    A scrape asks the broker for queue depths, no more often than every `depths_every_s`, for `depths_within_s` at most.

    Attributes:
        registry: All metrics. Other services in the same process add theirs.
    """

    def __init__(self, broker: Broker, depths_every_s: float = 5.0, depths_within_s: float = 2.0) -> None:
        self.registry = new_registry("gateway")
        self._requests = _Requests(self.registry)
        self._queues = _Queues(self.registry, broker, depths_every_s, depths_within_s)
        name = f"{PREFIX}_messages_accepted"
        accepted = Counter(name, "Messages that were answered 202.", ["lane"], registry=self.registry)
        self._accepted = {lane: accepted.labels(lane.value) for lane in Lane}

    def observe(self, operation: str, method: str, status: int, time_s: float) -> None:
        """Counts an answered request. `operation` is the path of its Operation, like `/sms/{uuid}`."""
        self._requests.observe(operation, method, status, time_s)

    def accepted(self, lane: Lane, messages: int = 1) -> None:
        """Counts messages that were answered 202."""
        self._accepted[lane].inc(messages)

    def watch_pending(self, pending: Callable[[], int]) -> None:
        """`pending` gives the number of messages that wait to be accepted, at each scrape."""
        self._gauge("messages_pending", "Messages that wait to be accepted.", pending)

    def watch_backlog(self, backlog: Callable[[], int]) -> None:
        """`backlog` gives the number of messages in the outboxes of all gateways, at each scrape."""
        self._gauge("backlog_messages", "Messages of all gateways that wait for RabbitMQ.", backlog)

    def watch_kept(self, kept: Callable[[], Kept]) -> None:
        """`kept` gives, at each scrape, what is kept for show, and how full Redis is. A bound is 0 if there is none."""
        self._gauge("kept_bytes", "Bytes of messages that are kept for show.", lambda: kept().bytes)
        self._gauge("kept_limit_bytes", "Their bound; 0 for none.", lambda: kept().most_bytes)
        self._gauge("redis_used_bytes", "Memory that Redis has in use.", lambda: kept().used_bytes)
        self._gauge("redis_limit_bytes", "Redis's maxmemory; 0 for none.", lambda: kept().memory_bytes)

    def watch_events(self, clients: Callable[[], int], dropped: Mapping[int, int]) -> None:
        """`clients` and `dropped` give, at each scrape, the clients of the events and those dropped by close code."""
        self._gauge("event_clients", "Clients that listen to events.", clients)
        self.registry.register(_Dropped(dropped))

    async def refresh(self) -> None:
        """Asks the broker for queue depths, unless it was asked a moment ago."""
        await self._queues.refresh()

    def operations(self) -> list[Operation]:
        """GET /metrics."""
        text = Answer("in Prometheus's text format", kind=str, example=EXAMPLE, media_type="text/plain")
        return [
            Operation(
                method="GET",
                path="/metrics",
                handler=self._show,
                scope=Scope.READ,
                of_all=True,
                tag="operation",
                summary="Metrics for Prometheus",
                description="Also on METRICS_PORT, where that is set, without an API key.",
                answers={200: text},
            )
        ]

    async def _show(self, _: Request) -> Response:
        await self.refresh()
        return Response(generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE})

    def _gauge(self, name: str, documentation: str, value: Callable[[], int]) -> None:
        Gauge(f"{PREFIX}_{name}", documentation, registry=self.registry).set_function(value)


class _Bound(NamedTuple):
    """The counters of one operation, method and status. Looking them up costs more than counting.

    Attributes:
        requests: Counts requests.
        times: Their durations.
    """

    requests: Counter
    times: Histogram


class _Requests:
    """Counts requests and their durations."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            f"{PREFIX}_requests", "Requests answered.", ["operation", "method", "status"], registry=registry
        )
        self._times = Histogram(
            f"{PREFIX}_request_duration_seconds",
            "How long they took.",
            ["operation", "method"],
            buckets=TIMES_S,
            registry=registry,
        )
        self._bound: dict[tuple[str, str, int], _Bound] = {}

    def observe(self, operation: str, method: str, status: int, time_s: float) -> None:
        """Counts one."""
        bound = self._bound.get((operation, method, status))
        if bound is None:
            bound = self._bind(operation, method, status)
        bound.requests.inc()
        bound.times.observe(time_s)

    def _bind(self, operation: str, method: str, status: int) -> _Bound:
        word = method if method in METHODS else OTHER
        requests = self._requests.labels(operation, word, str(status))
        bound = _Bound(requests, self._times.labels(operation, word))
        if method in METHODS:  # clients may invent any number of others
            self._bound[operation, method, status] = bound
        return bound


class _Queues:
    """Shows the depths of the broker's queues, and whether it answers."""

    def __init__(self, registry: CollectorRegistry, broker: Broker, every_s: float, within_s: float) -> None:
        self._broker = broker
        self._every_s = every_s
        self._within_s = within_s
        about = "1 while RabbitMQ answers with queue depths, else 0."
        self._connected = Gauge(f"{PREFIX}_broker_connected", about, registry=registry)
        self._depths = Gauge(
            "smsim_queue_bodies", "Bodies that wait in a queue.", ["queue"], registry=registry
        )
        self._asked_s = float("-inf")
        self._asking = asyncio.Lock()

    async def refresh(self) -> None:
        """Asks the broker, unless it was asked a moment ago."""
        async with self._asking:
            if time.monotonic() - self._asked_s < self._every_s:
                return
            try:
                async with asyncio.timeout(self._within_s):
                    self._show(await self._broker.depths(refresh=False))
            except (SmsimError, TimeoutError):
                self._show(None)
            self._asked_s = time.monotonic()

    def _show(self, depths: Mapping[str, int] | None) -> None:
        self._connected.set(depths is not None)
        self._depths.clear()
        for queue, bodies in (depths or {}).items():
            self._depths.labels(queue).set(bodies)


class _Dropped:
    """Collects what is counted by close code elsewhere."""

    def __init__(self, dropped: Mapping[int, int]) -> None:
        self._dropped = dropped

    def collect(self) -> Iterator[CounterMetricFamily]:
        counts = dict.fromkeys((*REASONS.values(), OTHER), 0)
        for code, clients in self._dropped.items():
            counts[REASONS.get(code, OTHER)] += clients
        about = "Clients of the events that were dropped."
        family = CounterMetricFamily(f"{PREFIX}_event_clients_dropped", about, labels=["reason"])
        for reason, clients in counts.items():
            family.add_metric([reason], clients)
        yield family
