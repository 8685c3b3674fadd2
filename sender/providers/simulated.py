"""The simulated provider: plays a profile, for hundreds of thousands of sends at once.

All draws of a group are made at once, and its sends sorted by when they end. A timer wheel, with one timer of the
event loop for each tick, holds a slice of the group for each tick: a task or timer a message would level off at
what docs/scaling.md shows of the version called plain.
"""

import asyncio
import secrets

import numpy as np

from common.settings import Settings
from sender.providers.bulk import Sends
from sender.providers.profiles import Profile

LONGEST_TICK_S = 0.005
SHORTEST_TICK_S = 0.001  # uvloop's timers have no finer one


class SimulatedProvider:
    """Pretends to send. Without a seed it draws one, so that each run differs."""

    reads_messages = False

    def __init__(self, profile: Profile, seed: int | None = None) -> None:
        self._profile = profile
        self._seed = secrets.randbits(63) if seed is None else seed
        self._wheel = Wheel(min(LONGEST_TICK_S, max(SHORTEST_TICK_S, profile.shortest_mean_s / 100)))

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
    return SimulatedProvider(Profile.from_settings(settings), settings.seed)


class Wheel:
    """Ends sends when their time has come, to the nearest tick."""

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._ticks: dict[int, list[tuple[Sends, int, int]]] = {}
        self._last = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def add(self, sends: Sends) -> None:
        """Takes in a group sorted by `times_us`, whose sends begin now."""
        if self._stopped:
            return
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        due = np.rint((now_s + sends.times_us * 1e-6) / self._tick_s).astype(np.int64)
        # What ends within this tick ends in the next one that comes round, or now if it takes no time at all.
        ended = int(np.searchsorted(sends.times_us, 0, side="right"))
        if ended:
            sends.finish(0, ended)
            if ended == due.size:
                return
        if self._timer is None:
            self._last = int(now_s / self._tick_s)
            self._timer = loop.call_at((self._last + 1) * self._tick_s, self._turn)
        np.maximum(due, self._last + 1, out=due)
        steps = np.flatnonzero(due[ended + 1 :] != due[ended:-1]) + ended + 1
        starts = [ended, *steps.tolist()]
        ends = [*starts[1:], due.size]
        for tick, first, beyond in zip(due[starts].tolist(), starts, ends, strict=True):
            self._ticks.setdefault(tick, []).append((sends, first, beyond))

    def stop(self) -> None:
        """Forgets all that is in flight."""
        self._stopped = True
        self._ticks.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        now = max(int(loop.time() / self._tick_s), self._last + 1)
        for tick in range(self._last + 1, now + 1):
            for sends, first, beyond in self._ticks.pop(tick, ()):
                sends.finish(first, beyond)
        self._last = now
        self._timer = None
        if self._ticks and not self._stopped:
            self._timer = loop.call_at((now + 1) * self._tick_s, self._turn)
