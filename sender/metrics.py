"""The metrics of a sender for Prometheus, read from the sender at each scrape."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from common.messages import Lane, Outcome
from common.metrics import time_histogram
from sender.service import Sender

OUTCOMES = {Outcome.SENT: "sent", Outcome.FAILED: "failed", Outcome.RETRY: "retried"}


class SenderMetrics:
    """Collects the metrics of a sender. `connected`: whether the broker's connections are up."""

    def __init__(self, sender: Sender, connected: Callable[[], bool] = lambda: True) -> None:
        self._sender = sender
        self._connected = connected

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        yield self._sends()
        yield self._durations()
        yield self._gauge("slots", "Sends in flight at most.", self._sender.slots.most)
        yield self._gauge("in_flight", "Sends in flight.", self._sender.slots.in_use)
        yield GaugeMetricFamily(
            "smsim_sender_broker_connected",
            "1 while the connections to RabbitMQ are up, else 0.",
            value=float(self._connected()),
        )
        if self._sender.last_heartbeat_s:
            yield GaugeMetricFamily(
                "smsim_sender_heartbeat_timestamp_seconds",
                "When the ledger last answered a heartbeat.",
                value=self._sender.last_heartbeat_s,
            )

    def _sends(self) -> Metric:
        sends = CounterMetricFamily(
            "smsim_sender_sends", "Sends that ended and are recorded.", labels=["outcome"]
        )
        for outcome, word in OUTCOMES.items():
            sends.add_metric([word], self._sender.counts.of(outcome))
        return sends

    def _durations(self) -> Metric:
        counts = self._sender.counts
        return time_histogram(
            "smsim_sender_send_duration_seconds",
            "How long these sends took.",
            counts.octaves(),
            counts.total_time_us,
        )

    def _gauge(self, name: str, text: str, of_lane: Callable[[Lane], int]) -> Metric:
        gauge = GaugeMetricFamily(f"smsim_sender_{name}", text, labels=["lane"])
        for worker in self._sender.lanes:
            gauge.add_metric([worker.lane], of_lane(worker.lane))
        return gauge
