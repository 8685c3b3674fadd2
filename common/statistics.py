"""The statistics of a run, or of all: what is read off one snapshot, or two."""

from dataclasses import dataclass
from typing import Any

from common.ledger.latency import percentile_s
from common.ledger.port import Snapshot


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the monitor tells, under its names in JSON. Times in seconds; None for what can't be told yet."""

    published: int
    queued: int
    sending: int
    sent: int
    failed: int
    retried: int
    ambiguous: int
    rejected: int
    avg_time_s: float | None
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    rate_per_s: float
    senders: int
    elapsed_s: float
    eta_s: float | None

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def statistics(now: Snapshot, before: Snapshot | None = None) -> Statistics:
    """What a snapshot says. The rate is that since `before`, else the mean rate of the whole run.

    A settled run's clock stands still: `elapsed_s` is then from its beginning to its last settle.
    """
    left = max(now.total, now.published) - now.settled
    over = left == 0 and now.settled > 0
    until_us = now.last_settled_us if over else now.now_us
    elapsed_s = max(0.0, (until_us - now.started_us) / 1e6) if now.started_us else 0.0
    if before is not None and now.now_us > before.now_us:
        rate = (now.settled - before.settled) / ((now.now_us - before.now_us) / 1e6)
    else:
        rate = now.settled / elapsed_s if elapsed_s else 0.0
    return Statistics(
        published=now.published,
        queued=now.queued,
        sending=now.sending,
        sent=now.sent,
        failed=now.failed,
        retried=now.retried,
        ambiguous=now.ambiguous,
        rejected=now.rejected,
        avg_time_s=round(now.total_time_us / now.settled / 1e6, 6) if now.settled else None,
        p50_s=_rounded(percentile_s(now.latency, 0.50)),
        p95_s=_rounded(percentile_s(now.latency, 0.95)),
        p99_s=_rounded(percentile_s(now.latency, 0.99)),
        rate_per_s=round(rate, 1),
        senders=len(now.senders),
        elapsed_s=round(elapsed_s, 3),
        eta_s=0.0 if left == 0 else round(left / rate, 1) if rate > 0 else None,
    )


def _rounded(time_s: float | None) -> float | None:
    return None if time_s is None else float(f"{time_s:.4g}")
