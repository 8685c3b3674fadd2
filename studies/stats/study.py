"""One study: its runs one after the other, with the time before and after each."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from studies.process import Process
from studies.stats import VOLUME
from studies.stats.processes import Processes, service_name
from studies.stats.sampling import AFTER, BEFORE, DURING, Sampler


@dataclass(frozen=True)
class Plan:
    """The runs to make.

    Attributes:
        command: The command, with `{n}` in place of the volume.
        volumes: One run for each; None for a run without a volume.
        lead_s, trail_s: How long to sample before and after each run.
        environment: Additional environment variables of the command.
    """

    command: Sequence[str]
    volumes: Sequence[int | None]
    lead_s: float = 2.0
    trail_s: float = 3.0
    environment: dict[str, str] | None = None

    def process(self, volume: int | None) -> Process:
        """The command with this volume."""
        argv = [word if volume is None else word.replace(VOLUME, str(volume)) for word in self.command]
        name = service_name(PurePath(argv[0]).name, argv)
        return Process(name, argv, env=self.environment, forwarded=True)


@dataclass(frozen=True)
class Run:
    """A run that was sampled. It may have no samples, if the services were unavailable.

    Attributes:
        volume: Its size.
        elapsed_s: How long the command took.
        code: The command's exit code; None if it was stopped, or if there was no command.
        first, beyond: The index of its first sample, and the index after its last one.
    """

    volume: int | None
    elapsed_s: float
    code: int | None
    first: int
    beyond: int


async def observe(sampler: Sampler, seconds: float, runs: list[Run]) -> None:
    """Samples without a command, as one run, which is added however it ends."""
    try:
        await sampler.for_seconds(seconds, DURING)
    finally:
        if samples := sampler.samples:
            elapsed_s = round(samples[-1].at_s - samples[0].at_s, 3)
            runs.append(Run(None, elapsed_s, code=None, first=0, beyond=len(samples)))


async def carry_out(
    plan: Plan, sampler: Sampler, processes: Processes, stop: asyncio.Event, runs: list[Run]
) -> None:
    """Runs the plan until a run fails, or until stopped. A run is added once it is over, however it ends."""
    for volume in plan.volumes:
        await sampler.for_seconds(plan.lead_s, BEFORE, volume)
        if stop.is_set():
            break
        first, process, code = len(sampler.samples), plan.process(volume), None
        with process:
            try:
                processes.add(process.pid, process.name)
                sampler.expected.add(process.name)
                await sampler.until(lambda process=process: process.over, DURING, volume)  # type: ignore[misc]
                code = process.code() if process.over else None
            finally:
                elapsed_s = round(process.elapsed_s, 3)
                runs.append(Run(volume, elapsed_s, code, first, beyond=len(sampler.samples)))
        await sampler.for_seconds(plan.trail_s, AFTER, volume)
        if code != 0:
            break
