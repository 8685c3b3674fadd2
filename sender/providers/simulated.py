"""The simulated provider: a processing time and a failure rate, for hundreds of thousands of sends at once.

All draws of a group are made at once, and its sends sorted by when they end. A timer wheel, with one timer of the
event loop for each tick, holds a slice of the group for each tick: a task or timer a message would level off at
some 40,000 messages a second (DESIGN.md §7).
"""

import asyncio
import secrets

import numpy as np

from common.messages import Outcome
from common.settings import Distribution, Settings
from sender.providers.draws import failures, processing_times_us
from sender.work import Sends

LONGEST_TICK_S = 0.005
SHORTEST_TICK_S = 0.001  # uvloop's timers have no finer one


class SimulatedProvider:
    """Pretends to send. Without a seed it draws one, so that each run differs."""

    def __init__(
        self,
        mean_s: float,
        stddev_s: float,
        distribution: Distribution = Distribution.NORMAL,
        failure_rate: float = 0.0,
        seed: int | None = None,
    ) -> None:
        self._mean_s = mean_s
        self._stddev_s = stddev_s
        self._distribution = distribution
        self._failure_rate = failure_rate
        self._seed = secrets.randbits(63) if seed is None else seed
        self._wheel = Wheel(min(LONGEST_TICK_S, max(SHORTEST_TICK_S, mean_s / 100)))

    @classmethod
    def from_settings(cls, settings: Settings) -> "SimulatedProvider":
        """As the settings say."""
        return cls(
            settings.mean_processing_time,
            settings.stddev_s,
            settings.processing_time_distribution,
            settings.failure_rate,
            settings.seed,
        )

    def start(self, sends: Sends) -> None:
        seqs, attempt = sends.seqs, sends.attempt
        times_us = processing_times_us(
            self._seed, seqs, attempt, self._distribution, self._mean_s, self._stddev_s
        )
        order = np.argsort(times_us)
        sends.reorder(order)
        sends.times_us = times_us[order]
        failed = failures(self._seed, sends.seqs, attempt, self._failure_rate)
        sends.outcomes = np.where(failed, np.uint8(Outcome.RETRY), np.uint8(Outcome.SENT))
        self._wheel.add(sends)

    async def close(self) -> None:
        self._wheel.stop()


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
