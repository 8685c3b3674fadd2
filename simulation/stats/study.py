"""One study: its runs one after the other, with the quiet before and after each."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from simulation.stats.command import Command, of_volume
from simulation.stats.processes import Processes
from simulation.stats.sampling import Sampler
from simulation.stats.usage import AFTER, BEFORE, DURING


@dataclass(frozen=True)
class Plan:
    """What to run, once for each volume, and how long to sample before and after each run, in seconds."""

    command: Sequence[str]
    volumes: Sequence[int | None]
    lead_s: float
    trail_s: float


@dataclass(frozen=True)
class Run:
    """One run that was sampled: ticks `first` to `beyond` - 1 are its own. `code` is the command's exit code."""

    volume: int | None
    elapsed_s: float
    code: int | None
    first: int
    beyond: int


async def observe(sampler: Sampler, seconds: float) -> Run:
    """No command: whatever goes on, for so long or until told to stop."""
    await sampler.for_seconds(seconds, DURING)
    ticks = sampler.ticks
    return Run(None, round(ticks[-1].at_s - ticks[0].at_s, 3), None, 0, len(ticks))


async def carry_out(plan: Plan, sampler: Sampler, processes: Processes, stop: asyncio.Event) -> list[Run]:
    """All runs, until one fails or until told to stop; what was sampled of that one counts too."""
    runs: list[Run] = []
    for volume in plan.volumes:
        await sampler.for_seconds(plan.lead_s, BEFORE, volume)
        if stop.is_set():
            break
        first = len(sampler.ticks)
        with Command(of_volume(plan.command, volume)) as command:
            processes.add(command.pid, command.name)
            sampler.expected.add(command.name)
            await sampler.until(command.over, DURING, volume)
            code = command.code() if command.over() else None
        runs.append(Run(volume, round(command.elapsed_s, 3), code, first, len(sampler.ticks)))
        await sampler.for_seconds(plan.trail_s, AFTER, volume)
        if code != 0:
            break
    return runs
