"""What the monitor shows to Prometheus: the whole pipeline, as of the last snapshot that it took anyway."""

import time
from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from common.ledger.latency import BUCKETS_PER_OCTAVE
from common.ledger.port import Snapshot
from common.metrics import time_histogram


class PipelineMetrics:
    """Collects the pipeline's metrics; there are none before the first snapshot."""

    def __init__(self) -> None:
        self._now: Snapshot | None = None
        self._taken_s = 0.0

    def update(self, snapshot: Snapshot) -> None:
        """A new snapshot, of all runs."""
        self._now, self._taken_s = snapshot, time.time()

    def collect(self) -> Iterator[Metric]:
        """The metrics of the last snapshot."""
        now = self._now
        if now is None:
            return
        yield GaugeMetricFamily(
            "smsim_snapshot_timestamp_seconds", "When the ledger last told the counters.", value=self._taken_s
        )
        yield CounterMetricFamily("smsim_messages_published", "Messages published.", value=now.published)
        settled = CounterMetricFamily(
            "smsim_messages_settled", "Messages that came to their end.", labels=["outcome"]
        )
        settled.add_metric(["sent"], now.sent)
        settled.add_metric(["failed"], now.failed)
        yield settled
        yield CounterMetricFamily(
            "smsim_messages_retried", "Sends that failed and are tried again.", value=now.retried
        )
        yield CounterMetricFamily(
            "smsim_messages_ambiguous", "At most so many sends went out twice.", value=now.ambiguous
        )
        yield CounterMetricFamily("smsim_bodies_rejected", "Bodies that are no batch.", value=now.rejected)
        yield GaugeMetricFamily(
            "smsim_messages_queued", "Messages published and not yet begun.", value=now.queued
        )
        yield GaugeMetricFamily("smsim_messages_sending", "Messages being sent.", value=now.sending)
        yield GaugeMetricFamily("smsim_senders", "Senders that live.", value=len(now.senders))
        yield GaugeMetricFamily(
            "smsim_slots",
            "Sends that can be in flight in all senders.",
            value=sum(sender.slots for sender in now.senders.values()),
        )
        yield time_histogram(
            "smsim_message_send_duration_seconds",
            "How long the sends took with which messages came to their end.",
            _octaves(now.latency),
            now.total_time_us,
        )


def _octaves(latency: dict[int, int]) -> Counter[int]:
    octaves: Counter[int] = Counter()
    for bucket, count in latency.items():
        octaves[bucket // BUCKETS_PER_OCTAVE] += count
    return octaves
