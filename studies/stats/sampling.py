"""Samples services at a steady interval."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.errors import Unavailable
from studies.meter import Usage

BEFORE, DURING, AFTER = "before", "during", "after"


class Watched(Protocol):
    """Services to sample, each under a name; those of one name count as one service."""

    async def sample(self) -> Mapping[str, Usage]:
        """The present usage. A service is missing once all its processes have ended. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at all services.

    Attributes:
        at_s: Seconds since the first sample.
        phase: BEFORE, DURING or AFTER a run.
        volume: The size of that run, if it has one.
        usage: The usage by service.
    """

    at_s: float
    phase: str
    volume: int | None
    usage: Mapping[str, Usage]


@dataclass(frozen=True)
class Timing:
    """When to sample.

    Attributes:
        interval_s: The time between two samples.
        end_every_s: How often to look for the end of a run.
        most_skipped: How many samples in a row may fail. A busy Docker engine is slow at times.
    """

    interval_s: float
    end_every_s: float = 0.02
    most_skipped: int = 10


class Sampler:
    """Samples services, phase by phase.

    A sample that finds a service unavailable is skipped, unless it is the first. Too many in a row raise Unavailable.

    Attributes:
        samples: The samples so far.
        ended_s: When services were found to have ended, in seconds since the first sample.
        expected: Services that are expected to end, so that their end is not noted.
        skipped: How many samples were skipped.
    """

    def __init__(self, watched: Sequence[Watched], timing: Timing, stop: asyncio.Event) -> None:
        self.samples: list[Sample] = []
        self.ended_s: dict[str, float] = {}
        self.expected: set[str] = set()
        self.skipped = 0
        self.timing = timing
        self._skipped_in_a_row = 0
        self._watched = watched
        self._stop = stop
        self._began_s: float | None = None

    async def for_seconds(self, seconds: float, phase: str, volume: int | None = None) -> None:
        """Samples for some seconds, or until stopped; at least once if that is more than 0."""
        ends_s = time.monotonic() + seconds
        if seconds > 0:
            await self.until(lambda: time.monotonic() >= ends_s, phase, volume)

    async def until(self, over: Callable[[], bool], phase: str, volume: int | None = None) -> None:
        """Samples at once, at each interval, and once more when it is over or stopped."""
        due_s = time.monotonic()
        while not (over() or self._stop.is_set()):
            if time.monotonic() >= due_s:
                await self.take(phase, volume)
                # After a slow sample the missed ones are left out, so that no burst follows.
                due_s = max(due_s + self.timing.interval_s, time.monotonic())
            await asyncio.sleep(min(self.timing.end_every_s, max(0.0, due_s - time.monotonic())))
        await self.take(phase, volume)

    async def take(self, phase: str, volume: int | None = None) -> None:
        """Takes one sample of every service."""
        now_s = time.monotonic()
        if self._began_s is None:
            self._began_s = now_s
        try:
            found = await asyncio.gather(*(watched.sample() for watched in self._watched))
        except Unavailable:
            self.skipped += 1
            self._skipped_in_a_row += 1
            if not self.samples or self._skipped_in_a_row >= self.timing.most_skipped:
                raise
            return
        self._skipped_in_a_row = 0
        usage = _together(found)
        self._note_ends(usage, now_s - self._began_s)
        self.samples.append(Sample(now_s - self._began_s, phase, volume, usage))

    def _note_ends(self, usage: Mapping[str, Usage], at_s: float) -> None:
        before = self.samples[-1].usage if self.samples else {}
        for name in before.keys() - usage.keys() - self.expected:
            self.ended_s[name] = at_s
        for name in usage:
            self.ended_s.pop(name, None)


def _together(parts: Iterable[Mapping[str, Usage]]) -> dict[str, Usage]:
    usage: dict[str, Usage] = {}
    for part in parts:
        for name, used in part.items():
            usage[name] = usage[name] + used if name in usage else used
    return usage
