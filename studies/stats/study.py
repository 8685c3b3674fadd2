"""One study: its runs one after the other, with the quiet before and after each."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from studies.stats.command import Command, of_volume
from studies.stats.processes import Processes
from studies.stats.sampling import Sampler
from studies.stats.usage import AFTER, BEFORE, DURING


@dataclass(frozen=True)
class Plan:
    """What to run, once for each volume, and how long to sample before and after each run, in seconds."""

    command: Sequence[str]
    volumes: Sequence[int | None]
    lead_s: float
    trail_s: float


@dataclass(frozen=True)
class Run:
    """One run that was sampled: ticks `first` to `beyond` - 1 are its own. `code` is the command's exit code.

    Without ticks of its own nothing is known of its services: whoever was asked did not answer.
    """

    volume: int | None
    elapsed_s: float
    code: int | None
    first: int
    beyond: int


async def observe(sampler: Sampler, seconds: float, runs: list[Run]) -> None:
    """No command: whatever goes on, for so long or until told to stop, as one run. It is added however that ends."""
    try:
        await sampler.for_seconds(seconds, DURING)
    finally:
        if ticks := sampler.ticks:
            runs.append(Run(None, round(ticks[-1].at_s - ticks[0].at_s, 3), None, 0, len(ticks)))


async def carry_out(
    plan: Plan, sampler: Sampler, processes: Processes, stop: asyncio.Event, runs: list[Run]
) -> None:
    """All runs, until one fails or until told to stop; what was sampled of that one counts too.

    Each is added to `runs` once it is over, however that ends: what was sampled until then is worth having.
    """
    for volume in plan.volumes:
        await sampler.for_seconds(plan.lead_s, BEFORE, volume)
        if stop.is_set():
            break
        first = len(sampler.ticks)
        command, code = Command(of_volume(plan.command, volume)), None
        try:
            with command:
                processes.add(command.pid, command.name)
                sampler.expected.add(command.name)
                await sampler.until(command.over, DURING, volume)
                code = command.code() if command.over() else None
        finally:
            if command.elapsed_s:  # else it could not be run at all
                runs.append(Run(volume, round(command.elapsed_s, 3), code, first, len(sampler.ticks)))
        await sampler.for_seconds(plan.trail_s, AFTER, volume)
        if code != 0:
            break
