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

# What a request took, in seconds: a confirm takes some milliseconds, a long poll as long as it was asked to.
TIMES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# Labels are bounded: what a client may choose freely counts as this.
OTHER = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# The broker is asked for its queues' depths when somebody looks, no more often than this, and no longer.
DEPTHS_EVERY_S = 5.0
DEPTHS_WITHIN_S = 2.0

EXAMPLE = """\
# HELP smsim_gateway_messages_accepted_total Messages that were answered 202.
# TYPE smsim_gateway_messages_accepted_total counter
smsim_gateway_messages_accepted_total{lane="bulk"} 17.0
"""

# What the close codes of RFC 6455 §7.4 mean of those who listened to events.
REASONS = {1001: "shutdown", 1008: "key", 1013: "slow"}


class _Bound(NamedTuple):
    """The counters of one operation, method and status, found once: looking them up costs more than counting."""

    requests: Counter
    times: Histogram


class GatewayMetrics:
    """Counts what the gateway does. Its registry takes further collectors, where other services run in its process."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
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
        self._pending = self._gauge("messages_pending", "Messages taken in and not yet confirmed.")
        self._clients = self._gauge("event_clients", "Clients that listen to events.")
        self._broker_up = self._gauge(
            "broker_connected", "1 while RabbitMQ tells its queues' depths, else 0."
        )
        self._depths = Gauge(
            "smsim_queue_bodies", "Bodies that wait in a queue.", ("queue",), registry=self.registry
        )
        self._bound: dict[tuple[str, str, int], _Bound] = {}
        self._looked_s = float("-inf")
        self._looking = asyncio.Lock()

    def observe(self, operation: str | None, method: str, status: int, time_s: float) -> None:
        """A request was answered. `operation` is the path of its Operation, `/sms/{uuid}`; None where it has none."""
        key = (operation or OTHER, method, status)
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bind(*key)
        bound.requests.inc()
        bound.times.observe(time_s)

    def accepted(self, lane: Lane, messages: int = 1) -> None:
        """So many messages are confirmed and answered 202."""
        self._accepted[lane].inc(messages)

    def watch_pending(self, pending: Callable[[], int]) -> None:
        """Says how many messages are taken in and not yet confirmed; asked when somebody looks."""
        self._pending.set_function(pending)

    def watch_events(self, clients: Callable[[], int], dropped: Mapping[int, int]) -> None:
        """Says how many clients listen to events, and how many were sent away, by close code; read as above."""
        self._clients.set_function(clients)
        self.registry.register(_Dropped(dropped))

    async def refresh(self) -> None:
        """Asks the broker for the depths of its queues, unless that was done just now."""
        async with self._looking:
            if time.monotonic() - self._looked_s < DEPTHS_EVERY_S:
                return
            try:
                async with asyncio.timeout(DEPTHS_WITHIN_S):
                    self._show_depths(await self._broker.depths(anew=False))
            except (SmsimError, TimeoutError):
                self._show_depths(None)
            self._looked_s = time.monotonic()

    def operations(self) -> list[Operation]:
        """GET /metrics."""
        return [
            Operation(
                *("GET", "/metrics", self._show, Scope.READ, "operation", "Metrics for Prometheus"),
                answers={
                    200: Answer("in Prometheus's text format", str, EXAMPLE, media_type="text/plain"),
                },
                description="Also on METRICS_PORT, where that is set, to everybody who can reach it.",
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
        if method in METHODS:  # an invented method finds no place among those that are kept
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
    """Reads what somebody else counts, by close code."""

    def __init__(self, dropped: Mapping[int, int]) -> None:
        self._dropped = dropped

    def collect(self) -> Iterator[CounterMetricFamily]:
        counts = dict.fromkeys((*REASONS.values(), OTHER), 0)
        for code, clients in self._dropped.items():
            counts[REASONS.get(code, OTHER)] += clients
        family = CounterMetricFamily(
            "smsim_gateway_event_clients_dropped",
            "Clients that listened to events and were sent away.",
            labels=["reason"],
        )
        for reason, clients in counts.items():
            family.add_metric([reason], clients)
        yield family
