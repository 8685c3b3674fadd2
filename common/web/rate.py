"""Limits: how many messages a caller, and all callers together, may hand in.

Each gateway process counts for itself, so that no request waits for Redis: with N of them, N times as much comes in.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from common.web.keys.port import Caller
from common.web.problems import Problem

BURST_S = 1.0
MOST_CALLERS = 10_000


@dataclass(slots=True)
class _Bucket:
    """Tokens at a moment, at most one burst; below 0 it owes."""

    rate: float
    tokens: float
    at: float

    @classmethod
    def full(cls, rate: float, now: float) -> "_Bucket":
        return cls(rate, max(1.0, rate * BURST_S), now)

    def wait_s(self, now: float) -> float:
        """How long until anything passes; 0 or less: now."""
        size = max(1.0, self.rate * BURST_S)
        self.tokens = min(size, self.tokens + max(0.0, now - self.at) * self.rate)
        self.at = now
        return (1 - self.tokens) / self.rate


class RateLimiter:
    """Token buckets of one second's burst; rates in messages/s, None for no limit. `clock` gives seconds.

    Whatever is asked passes once a bucket holds one token, takes all it asks for, and leaves the bucket owing: in any T
    seconds no more than rate · (T + 1 s) pass, and the rest of one request. A batch larger than a burst needs some such
    rule. One that waited for a full bucket would never find it beside somebody who sends single messages all the time;
    this way both wait alike.
    """

    def __init__(
        self,
        total_rate: float | None,
        key_rate: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key_rate = key_rate
        self._clock = clock
        self._total = None if total_rate is None else _Bucket.full(total_rate, clock())
        self._callers: dict[str, _Bucket] = {}

    def take(self, caller: Caller, messages: int) -> None:
        """Counts messages that a caller hands in. Raises Problem 429, and counts nothing, if they must wait.

        Retry-After is when the same would pass, unless others come first.
        """
        if messages <= 0:
            return
        now = self._clock()
        buckets: list[tuple[_Bucket, str]] = []
        if self._key_rate is not None:
            own = self._bucket_of(caller, self._key_rate, now)
            buckets.append((own, f"an API key may hand in {self._key_rate:g} messages/s here"))
        if self._total is not None:
            buckets.append(
                (self._total, f"all callers together may hand in {self._total.rate:g} messages/s here")
            )
        waits_s = [(bucket.wait_s(now), limit) for bucket, limit in buckets]
        longest_s, limit = max(waits_s, default=(0.0, ""))
        if longest_s > 0:
            raise Problem(429, f"too much at once: {limit}; try again later", retry_after_s=longest_s)
        for bucket, _ in buckets:
            bucket.tokens -= messages

    def give_back(self, caller: Caller, messages: int) -> None:
        """Takes back the count of messages that an earlier request had handed in."""
        for bucket in (self._callers.get(caller.id), self._total):
            if bucket is not None:
                bucket.tokens += messages

    def _bucket_of(self, caller: Caller, rate: float, now: float) -> _Bucket:
        """A caller's bucket. Of those beyond so many the one goes that was longest not used, and so is likely full."""
        bucket = self._callers.pop(caller.id, None) or _Bucket.full(rate, now)
        self._callers[caller.id] = bucket
        if len(self._callers) > MOST_CALLERS:
            del self._callers[next(iter(self._callers))]
        return bucket
