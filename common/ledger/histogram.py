"""Histograms of send times: 16 buckets for each doubling, so that a percentile is accurate within 2.2 %."""

import numpy as np
from numpy.typing import NDArray

BUCKETS_PER_OCTAVE = 16


def histogram(times_us: NDArray[np.int64]) -> dict[int, int]:
    """How many of the times (microseconds) fall into each bucket; empty buckets are left out."""
    buckets = np.floor(np.log2(times_us + 1.0) * BUCKETS_PER_OCTAVE).astype(np.int64)
    counts = np.bincount(buckets)
    filled = np.flatnonzero(counts)
    return dict(zip(filled.tolist(), counts[filled].tolist(), strict=True))


def percentile_s(latency: dict[int, int], q: float) -> float | None:
    """The quantile `q` in seconds (nearest rank, the middle of the bucket); None if the histogram is empty."""
    total = sum(latency.values())
    if total == 0:
        return None
    rank = max(1, int(np.ceil(q * total)))
    for bucket in sorted(latency):
        rank -= latency[bucket]
        if rank <= 0:
            return float(2 ** ((bucket + 0.5) / BUCKETS_PER_OCTAVE) - 1) / 1e6
    raise AssertionError("the ranks add up to the total")
