"""The metrics of a sender for Prometheus, read from the sender at each scrape."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from common.messages import Outcome
from common.metrics import time_histogram
from sender.service import Sender

OUTCOMES = {Outcome.SENT: "sent", Outcome.FAILED: "failed", Outcome.RETRY: "retried"}


class SenderMetrics:
    """Collects the metrics of a sender. `connected` tells whether the broker's connections are up."""

    def __init__(self, sender: Sender, connected: Callable[[], bool] = lambda: True) -> None:
        self._sender = sender
        self._connected = connected

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        counts = self._sender.counts
        sends = CounterMetricFamily(
            "smsim_sender_sends", "Sends that ended and are recorded.", labels=["outcome"]
        )
        for outcome, word in OUTCOMES.items():
            sends.add_metric([word], counts.of(outcome))
        yield sends
        yield time_histogram(
            "smsim_sender_send_duration_seconds",
            "How long these sends took.",
            counts.octaves(),
            counts.total_time_us,
        )
        slots = GaugeMetricFamily("smsim_sender_slots", "Sends in flight at most.", labels=["lane"])
        in_flight = GaugeMetricFamily("smsim_sender_in_flight", "Sends in flight.", labels=["lane"])
        for lane in self._sender.lanes:
            slots.add_metric([lane.lane], self._sender.slots.most(lane.lane))
            in_flight.add_metric([lane.lane], lane.in_flight)
        yield slots
        yield in_flight
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
