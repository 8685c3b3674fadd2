"""Takes samples in time with a clock, while something goes on."""

import asyncio
import time
from collections.abc import Callable, Sequence

from common.errors import Unavailable
from studies.stats.usage import Tick, Usage, Watched

# How exactly the end of a run is seen.
LOOK_FOR_END_S = 0.02
# So many looks in a row that fail are too many: a busy engine may be slow at times, but not for as long as that.
MOST_SKIPPED = 10


class Sampler:
    """Looks at what is watched every `interval_s` seconds, in phases; `ticks` are the looks so far.

    Once the first look has succeeded, one that finds nobody to answer is left out; after MOST_SKIPPED of them in a row
    it raises Unavailable. `skipped` counts them.
    """

    def __init__(self, watched: Sequence[Watched], interval_s: float, stop: asyncio.Event) -> None:
        self.ticks: list[Tick] = []
        # Services of which nothing was left, and when that was seen, in seconds after the first look; those that are
        # expected to end are not noted.
        self.ended_s: dict[str, float] = {}
        self.expected: set[str] = set()
        self.skipped = 0
        self._skipped_in_a_row = 0
        self._watched = watched
        self.interval_s = interval_s
        self._stop = stop
        self._began: float | None = None

    async def for_seconds(self, seconds: float, phase: str, volume: int | None = None) -> None:
        """Samples for so long, at least once if that is over 0, or until told to stop."""
        ends = time.monotonic() + seconds
        if seconds > 0:
            await self.until(lambda: time.monotonic() >= ends, phase, volume)

    async def until(self, over: Callable[[], bool], phase: str, volume: int | None = None) -> None:
        """Samples at once, every interval, and once more when it is over, or when told to stop."""
        due = time.monotonic()
        while not (over() or self._stop.is_set()):
            if time.monotonic() >= due:
                await self.look(phase, volume)
                # Grid points that were missed are left out: a slow look must not bring a burst of looks.
                due = max(due + self.interval_s, time.monotonic())
            pause_s = min(LOOK_FOR_END_S, max(0.0, due - time.monotonic()))
            await asyncio.sleep(pause_s)
        await self.look(phase, volume)

    async def look(self, phase: str, volume: int | None = None) -> None:
        """Takes one sample of every service."""
        at = time.monotonic()
        if self._began is None:
            self._began = at
        usage: dict[str, Usage] = {}
        try:
            every = await asyncio.gather(*(one.look() for one in self._watched))
        except Unavailable:
            self.skipped += 1
            self._skipped_in_a_row += 1
            if not self.ticks or self._skipped_in_a_row >= MOST_SKIPPED:
                raise
            return
        self._skipped_in_a_row = 0
        for found in every:
            for name, used in found.items():
                usage[name] = usage[name] + used if name in usage else used
        self._note_ends(usage, at - self._began)
        self.ticks.append(Tick(at - self._began, phase, volume, usage))

    def _note_ends(self, usage: dict[str, Usage], at_s: float) -> None:
        before = self.ticks[-1].usage if self.ticks else {}
        for name in before.keys() - usage.keys() - self.expected:
            self.ended_s[name] = at_s
        for name in usage:
            self.ended_s.pop(name, None)
