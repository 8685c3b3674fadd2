"""Rate limits: how many messages a second a caller, and all callers together, may send.

Each gateway process counts alone, so that no request waits for Redis: N processes accept N times as many.
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
    """A token bucket.

    Attributes:
        rate: Tokens a second.
        tokens: Tokens at the time `at`, at most one burst. Below 0 it owes.
        at: When they were counted, in seconds.
    """

    rate: float
    tokens: float
    at: float

    @classmethod
    def full(cls, rate: float, now: float) -> "_Bucket":
        return cls(rate, max(1.0, rate * BURST_S), now)

    def wait_s(self, now: float) -> float:
        """Seconds until the next message may pass; 0 or less: now."""
        size = max(1.0, self.rate * BURST_S)
        self.tokens = min(size, self.tokens + max(0.0, now - self.at) * self.rate)
        self.at = now
        return (1 - self.tokens) / self.rate


class RateLimiter:
    """Token buckets with a burst of one second. Rates are in messages/s, None for no limit; `clock` gives seconds.

    A request passes once a bucket holds one token. It takes all its tokens and may leave the bucket owing: in T seconds
    no more than rate · (T + 1 s) messages pass, and the rest of one request. So a run that is larger than a burst can
    pass, and does not starve beside single messages, which never leave a bucket full.
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

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self._key_rate is not None or self._total is not None

    def take(self, caller: Caller, messages: int) -> None:
        """Counts messages of a caller. Raises Problem 429, and counts nothing, if they must wait.

        Retry-After is the time after which they would pass if nobody else sends.
        """
        if messages <= 0:
            return
        now = self._clock()
        buckets: list[tuple[_Bucket, str]] = []
        if self._key_rate is not None:
            own = self._bucket_of(caller, self._key_rate, now)
            buckets.append((own, f"an API key may send {self._key_rate:g} messages/s here"))
        if self._total is not None:
            buckets.append(
                (self._total, f"all callers together may send {self._total.rate:g} messages/s here")
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
        """A caller's bucket. Beyond MOST_CALLERS the least recently used one is dropped; it is probably full."""
        bucket = self._callers.pop(caller.id, None) or _Bucket.full(rate, now)
        self._callers[caller.id] = bucket
        if len(self._callers) > MOST_CALLERS:
            del self._callers[next(iter(self._callers))]
        return bucket
