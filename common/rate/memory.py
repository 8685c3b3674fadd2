"""The rate limit in memory, for embedded runs and tests: one object that all senders share."""

import math
import time
from collections.abc import Callable

from common.messages import Lane
from common.rate.port import TIMING, Grant, bucket_of, part_of, wait_for


class MemoryRateLimit:
    """`rate` in messages per second; `clock` gives seconds. take.lua does the same in Redis."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._tokens = 1.0
        self._at = clock()
        # The tokens that urgent takers wait for, and until when bulk takers leave them.
        self._owed = 0
        self._owed_until = self._at

    async def take(self, lane: Lane, wanted: int) -> Grant:
        if wanted <= 0:
            return Grant(0, 0)
        now = self._clock()
        self._count_time(now)
        urgent = lane is Lane.URGENT
        ahead = 0 if urgent else self._owed
        granted = max(0, min(wanted, math.floor(self._tokens - ahead)))
        self._tokens -= granted
        rest = wanted - granted
        lacking_s = (min(rest, part_of(self.rate)) - self._tokens) / self.rate
        if urgent:
            self._owed = max(rest, self._owed - granted)
            if rest:
                due = now + min(lacking_s, TIMING.longest_wait_s) + TIMING.patience_s
                self._owed_until = max(self._owed_until, due)
        if rest == 0:
            return Grant(granted, 0)
        # Until the urgent takers could be granted all, or are waited for no more.
        barred_s = max(lacking_s, self._owed_until - now)
        return Grant(granted, wait_for(min(lacking_s + ahead / self.rate, barred_s)))

    def _count_time(self, now: float) -> None:
        passed_s = max(0.0, now - self._at)
        self._tokens = min(bucket_of(self.rate), self._tokens + passed_s * self.rate)
        self._at = now
        self._owed_until = min(self._owed_until, now + TIMING.longest_wait_s + TIMING.patience_s)
        if now >= self._owed_until:
            self._owed = 0
