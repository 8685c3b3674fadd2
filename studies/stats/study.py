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


class Study:
    """Samples services while a plan is carried out.

    Attributes:
        sampler: Samples the services.
        runs: The runs so far.
    """

    def __init__(self, sampler: Sampler, processes: Processes, stop: asyncio.Event) -> None:
        self.sampler = sampler
        self.runs: list[Run] = []
        self._processes = processes
        self._stop = stop

    async def observe(self, seconds: float) -> None:
        """Samples without a command, as one run, which is added however it ends."""
        try:
            await self.sampler.for_seconds(seconds, DURING)
        finally:
            if samples := self.sampler.samples:
                elapsed_s = round(samples[-1].at_s - samples[0].at_s, 3)
                self.runs.append(Run(None, elapsed_s, code=None, first=0, beyond=len(samples)))

    async def carry_out(self, plan: Plan) -> None:
        """Runs the plan until a run fails, or until stopped."""
        for volume in plan.volumes:
            await self.sampler.for_seconds(plan.lead_s, BEFORE, volume)
            if self._stop.is_set():
                break
            with plan.process(volume) as process:
                code = await self._run(process, volume)
            await self.sampler.for_seconds(plan.trail_s, AFTER, volume)
            if code != 0:
                break

    async def _run(self, process: Process, volume: int | None) -> int | None:
        """Samples one run, which is added however it ends. Returns the command's exit code; None if stopped."""
        first, code = len(self.sampler.samples), None
        self._processes.add(process.pid, process.name)
        self.sampler.expected.add(process.name)
        try:
            await self.sampler.until(lambda: process.over, DURING, volume)
            code = process.code() if process.over else None
        finally:
            beyond = len(self.sampler.samples)
            self.runs.append(Run(volume, round(process.elapsed_s, 3), code, first, beyond))
        return code
