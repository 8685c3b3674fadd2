"""The simulated provider: plays a profile, for hundreds of thousands of sends at once.

It draws the results of a whole group together and sorts the sends by their end. A timer wheel with one timer of the
event loop for each tick then reports a slice of the group at a time. A task or timer a message is much slower:
docs/scaling.md shows it as the version called plain.
"""

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.settings import Settings
from sender.providers.bulk import Sends
from sender.providers.profiles import Profile, configured_profile


@dataclass(frozen=True)
class Ticks:
    """The length of a tick, which is a hundredth of the mean time of a send, within limits.

    Attributes:
        longest_s: The longest tick, in seconds.
        shortest_s: The shortest tick, in seconds: uvloop's timers have no finer resolution.
    """

    longest_s: float = 0.005
    shortest_s: float = 0.001

    def length_s(self, mean_s: float) -> float:
        """The length for a mean time of a send, in seconds."""
        return min(self.longest_s, max(self.shortest_s, mean_s / 100))


class SimulatedProvider:
    """Pretends to send. Without a seed it draws one, so runs differ."""

    reads_messages = False

    def __init__(self, profile: Profile, seed: int | None = None) -> None:
        self._profile = profile
        self._seed = secrets.randbits(63) if seed is None else seed
        self._wheel = Wheel(Ticks().length_s(profile.shortest_mean_s))

    def start(self, sends: Sends) -> None:
        plays = self._profile.play(self._seed, sends.seqs, sends.attempt, sends.age_s)
        order = np.argsort(plays.times_us)
        sends.reorder(order)
        sends.times_us = plays.times_us[order]
        sends.outcomes = plays.outcomes[order]
        if plays.retry_after_s is not None:
            sends.retry_after_s = plays.retry_after_s[order]
        self._wheel.add(sends)

    async def close(self) -> None:
        self._wheel.stop()


def create(settings: Settings) -> SimulatedProvider:
    """The provider for PROVIDER_PROFILE and SEED. Raises UsageError for an invalid profile."""
    return SimulatedProvider(configured_profile(settings), settings.seed)


class Slice(msgspec.Struct):
    """Sends of one group that end in the same tick.

    Attributes:
        sends: The group.
        first: The first of their positions.
        beyond: The position after the last.
    """

    sends: Sends
    first: int
    beyond: int

    def finish(self) -> None:
        """Reports these sends."""
        self.sends.finish(self.first, self.beyond)


class Wheel:
    """A timer wheel: ends sends when their time is over, to the nearest tick."""

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._ticks: dict[int, list[Slice]] = {}
        self._last = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def add(self, sends: Sends) -> None:
        """Takes a group, sorted by `times_us`, whose sends begin now. Those that take no time end immediately."""
        if self._stopped:
            return
        now_s = asyncio.get_running_loop().time()
        immediate = int(np.searchsorted(sends.times_us, 0, side="right"))
        if immediate:
            sends.finish(0, immediate)
        if immediate == sends.times_us.size:
            return
        if self._timer is None:
            self._last = int(now_s / self._tick_s)
            self._start_timer()
        ends_s = now_s + sends.times_us[immediate:] * 1e-6
        due = np.rint(ends_s / self._tick_s).astype(np.int64)
        # What is due within this tick ends in the next one.
        np.maximum(due, self._last + 1, out=due)
        for tick, first, beyond in _ranges(due):
            part = Slice(sends, immediate + first, immediate + beyond)
            self._ticks.setdefault(tick, []).append(part)

    def stop(self) -> None:
        """Abandons all sends in flight."""
        self._stopped = True
        self._ticks.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at((self._last + 1) * self._tick_s, self._turn)

    def _turn(self) -> None:
        """Ends the sends that are due since the last turn."""
        now_s = asyncio.get_running_loop().time()
        now = max(int(now_s / self._tick_s), self._last + 1)
        for tick in range(self._last + 1, now + 1):
            for part in self._ticks.pop(tick, ()):
                part.finish()
        self._last = now
        self._timer = None
        if self._ticks and not self._stopped:
            self._start_timer()


def _ranges(values: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """The ranges of equal values in a sorted array: (value, first position, position after the last)."""
    steps = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = [0, *steps.tolist()]
    ends = [*steps.tolist(), values.size]
    return zip(values[starts].tolist(), starts, ends, strict=True)
