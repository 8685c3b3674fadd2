"""The statistics of a run, or of all runs: computed from one snapshot, or from two."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from common.counters import COUNTERS, Counters
from common.ledger.histogram import percentile_s
from common.ledger.values import Snapshot

Seconds = Annotated[float, Meta(description="seconds")]


class Statistics(Counters, frozen=True, kw_only=True):
    """The counters and what follows from them, under the names that they have in JSON. None where it is not known."""

    queued: Annotated[int, Meta(description="waiting for a sender, or for another attempt")]
    avg_time_s: Annotated[float | None, Meta(description="mean time of a send, in seconds")]
    p50_s: Seconds | None
    p95_s: Seconds | None
    p99_s: Seconds | None
    rate_per_s: Annotated[float, Meta(description="messages settled a second")]
    senders: Annotated[int, Meta(ge=0, description="senders whose last heartbeat is less than 10 s old")]
    elapsed_s: Annotated[
        float, Meta(description="seconds since the beginning, up to the last settle once over")
    ]
    eta_s: Annotated[float | None, Meta(description="seconds to the end at this rate; null if not known")]

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values, in the order in which people read them."""
        fields = msgspec.structs.asdict(self)
        return {"published": fields.pop("published"), "queued": fields.pop("queued"), **fields}


def statistics(now: Snapshot, before: Snapshot | None = None) -> Statistics:
    """The statistics of a snapshot. The rate is that since `before`, else the mean rate of the whole run.

    For a settled run, `elapsed_s` ends with its last settle. Canceled messages have no send time.
    """
    left = max(now.total, now.published) - now.settled
    over = left == 0 and now.settled > 0
    until_us = now.last_settled_us if over else now.now_us
    elapsed_s = max(0.0, (until_us - now.started_us) / 1e6) if now.started_us else 0.0
    rate = _rate_per_s(now, before, elapsed_s)
    timed = now.settled - now.canceled
    return Statistics(
        **{counter.name: getattr(now, counter.name) for counter in COUNTERS},
        queued=now.queued,
        avg_time_s=round(now.total_time_us / timed / 1e6, 6) if timed else None,
        p50_s=_rounded(percentile_s(now.latency, 0.50)),
        p95_s=_rounded(percentile_s(now.latency, 0.95)),
        p99_s=_rounded(percentile_s(now.latency, 0.99)),
        rate_per_s=round(rate, 1),
        senders=len(now.senders),
        elapsed_s=round(elapsed_s, 3),
        eta_s=0.0 if left == 0 else round(left / rate, 1) if rate > 0 else None,
    )


def _rate_per_s(now: Snapshot, before: Snapshot | None, elapsed_s: float) -> float:
    if before is not None and now.now_us > before.now_us:
        # A ledger that has lost writes has fewer than before.
        return max(0, now.settled - before.settled) / ((now.now_us - before.now_us) / 1e6)
    return now.settled / elapsed_s if elapsed_s else 0.0


def _rounded(time_s: float | None) -> float | None:
    return None if time_s is None else float(f"{time_s:.4g}")
