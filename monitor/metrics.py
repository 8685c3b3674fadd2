"""The pipeline's Prometheus metrics, from the monitor's last snapshot."""

import time
from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from common.counters import COUNTERS, Kind
from common.ledger.histogram import BUCKETS_PER_OCTAVE
from common.ledger.values import Snapshot
from common.metrics import time_histogram


class PipelineMetrics:
    """Collects the metrics of the whole pipeline; none before the first snapshot."""

    def __init__(self) -> None:
        self._now: Snapshot | None = None
        self._taken_s = 0.0

    def update(self, snapshot: Snapshot) -> None:
        """Takes a new snapshot of all runs."""
        self._now, self._taken_s = snapshot, time.time()

    def collect(self) -> Iterator[Metric]:
        """The metrics of the last snapshot."""
        now = self._now
        if now is None:
            return
        yield _gauge("snapshot_timestamp_seconds", "when the counters were last read", self._taken_s)
        yield from _counters(now)
        yield _gauge("messages_queued", "messages published and not yet begun", now.queued)
        yield _gauge("senders", "senders that are alive", len(now.senders))
        slots = sum(sender.slots for sender in now.senders.values())
        yield _gauge("slots", "sends that can be in flight in all senders", slots)
        yield time_histogram(
            "smsim_message_send_duration_seconds",
            "how long the sends of settled messages took",
            _octaves(now.latency),
            now.total_time_us,
        )


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"smsim_{name}", help, value=value)


def _counters(now: Snapshot) -> Iterator[Metric]:
    """A metric for each counter; one for all final states of a message."""
    outcomes: CounterMetricFamily | None = None
    for counter in COUNTERS:
        value = getattr(now, counter.name)
        match counter.kind:
            case Kind.TOTAL:
                yield CounterMetricFamily(counter.metric, counter.help, value=value)
            case Kind.LEVEL:
                yield GaugeMetricFamily(counter.metric, counter.help, value=value)
            case Kind.OUTCOME:
                outcomes = outcomes or CounterMetricFamily(
                    counter.metric, "messages in a final state", labels=["outcome"]
                )
                outcomes.add_metric([counter.name], value)
    if outcomes is not None:
        yield outcomes


def _octaves(latency: dict[int, int]) -> Counter[int]:
    octaves: Counter[int] = Counter()
    for bucket, count in latency.items():
        octaves[bucket // BUCKETS_PER_OCTAVE] += count
    return octaves
