"""Figures from the samples: CPU over time, and CPU and memory of each service in each run."""

from collections.abc import Iterable, Sequence
from itertools import takewhile

import msgspec

from studies.meter import MB, Usage
from studies.stats.sampling import AFTER, BEFORE, Sample
from studies.stats.study import Run


class Share(msgspec.Struct, frozen=True):
    """The CPU time and memory of one service in one run; None where it was not sampled.

    Attributes:
        cpu_s, cpu_percent: CPU time, and CPU in percent of one core.
        peak_mb, before_mb, after_mb: The most memory, and the memory before and after the run, in MB (10^6 bytes).
    """

    cpu_s: float
    cpu_percent: float | None
    peak_mb: float
    before_mb: float | None
    after_mb: float | None


def services_of(samples: Sequence[Sample]) -> list[str]:
    """The names of all services, in the order of their appearance."""
    return list(dict.fromkeys(name for sample in samples for name in sample.usage))


def cpu_percent(samples: Sequence[Sample], service: str, interval_s: float) -> list[float | None]:
    """CPU at each sample, in percent of one core since a sample at least half an interval before; None if unknown.

    Over a shorter time, one clock tick of CPU time (10 ms on Linux) would show as a peak.
    """
    found: list[float | None] = []
    earlier = 0
    for now, sample in enumerate(samples):
        while earlier + 1 < now and sample.at_s - samples[earlier + 1].at_s >= interval_s / 2:
            earlier += 1
        found.append(_percent(samples[earlier], sample, service))
    return found


def shares(samples: Sequence[Sample], run: Run) -> dict[str, Share]:
    """The share of each service in a run. CPU counts from the last sample before the run to the last in it."""
    return {name: _share(samples, run, name) for name in services_of(samples[run.first : run.beyond])}


def _percent(before: Sample, now: Sample, service: str) -> float | None:
    if now.at_s <= before.at_s or not (service in now.usage and service in before.usage):
        return None
    used_s = now.usage[service].cpu_s - before.usage[service].cpu_s
    return 100 * used_s / (now.at_s - before.at_s)


def _share(samples: Sequence[Sample], run: Run, name: str) -> Share:
    own = [sample.usage[name] for sample in samples[run.first : run.beyond] if name in sample.usage]
    # Only as far as the neighbouring runs, which may have the same volume.
    before = takewhile(lambda sample: sample.phase == BEFORE, reversed(samples[: run.first]))
    after = list(takewhile(lambda sample: sample.phase == AFTER, samples[run.beyond :]))
    used_s = own[-1].cpu_s - _usage_before(samples, run, name, own[0]).cpu_s
    return Share(
        cpu_s=round(used_s, 3),
        cpu_percent=round(100 * used_s / run.elapsed_s, 1) if run.elapsed_s else None,
        peak_mb=_mb(max(usage.memory_bytes for usage in own)),
        before_mb=_first_mb(before, name),
        after_mb=_first_mb(reversed(after), name),
    )


def _usage_before(samples: Sequence[Sample], run: Run, name: str, default: Usage) -> Usage:
    """The last usage before the run."""
    earlier = (sample.usage[name] for sample in reversed(samples[: run.first]) if name in sample.usage)
    return next(earlier, default)


def _first_mb(samples: Iterable[Sample], name: str) -> float | None:
    return next((_mb(sample.usage[name].memory_bytes) for sample in samples if name in sample.usage), None)


def _mb(memory_bytes: int) -> float:
    return round(memory_bytes / MB, 1)
