"""What the samples come to: CPU over time, and CPU and memory of each service in each run."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from studies.stats.study import Run
from studies.stats.usage import AFTER, BEFORE, Tick

MB = 1e6


@dataclass(frozen=True)
class Share:
    """One service's share in one run. CPU in seconds and in percent of one core; memory in MB (10^6 bytes).

    None where there was nothing to see: no time before or after, or a service that was not there.
    """

    cpu_s: float
    cpu_percent: float | None
    peak_mb: float
    before_mb: float | None
    after_mb: float | None


def services_of(ticks: Sequence[Tick]) -> list[str]:
    """All names that were seen, in the order they appeared in."""
    return list(dict.fromkeys(name for tick in ticks for name in tick.usage))


def cpu_percent(ticks: Sequence[Tick], service: str, interval_s: float) -> list[float | None]:
    """CPU at each tick, in percent of one core since a tick at least half an interval before; None where unknown.

    Over less than that the clock tick that CPU time is counted in, 10 ms on Linux, would show as a peak.
    """
    found: list[float | None] = []
    earlier = 0
    for now, tick in enumerate(ticks):
        while earlier + 1 < now and tick.at_s - ticks[earlier + 1].at_s >= interval_s / 2:
            earlier += 1
        before = ticks[earlier]
        if tick.at_s <= before.at_s or not (service in tick.usage and service in before.usage):
            found.append(None)
            continue
        used_s = tick.usage[service].cpu_s - before.usage[service].cpu_s
        found.append(100 * used_s / (tick.at_s - before.at_s))
    return found


def shares(ticks: Sequence[Tick], run: Run) -> dict[str, Share]:
    """Each service's share in a run; CPU counts from the last look before the run to the last in it."""
    return {name: _share(ticks, run, name) for name in services_of(ticks[run.first : run.beyond])}


def _share(ticks: Sequence[Tick], run: Run, name: str) -> Share:
    own = [tick.usage[name] for tick in ticks[run.first : run.beyond] if name in tick.usage]
    earlier = [tick.usage[name] for tick in ticks[: run.first] if name in tick.usage]
    used_s = own[-1].cpu_s - (earlier[-1] if earlier else own[0]).cpu_s
    # Up to the neighbouring runs, which may be of the same volume.
    before = takewhile(lambda tick: tick.phase == BEFORE, reversed(ticks[: run.first]))
    after = takewhile(lambda tick: tick.phase == AFTER, ticks[run.beyond :])
    before_mb, after_mb = (
        [round(tick.usage[name].memory_bytes / MB, 1) for tick in around if name in tick.usage]
        for around in (before, after)
    )
    return Share(
        cpu_s=round(used_s, 3),
        cpu_percent=round(100 * used_s / run.elapsed_s, 1) if run.elapsed_s else None,
        peak_mb=round(max(usage.memory_bytes for usage in own) / MB, 1),
        before_mb=before_mb[0] if before_mb else None,
        after_mb=after_mb[-1] if after_mb else None,
    )
