"""Exponential backoff: the pauses between attempts at something that fails for now."""

import asyncio
import random


class Backoff:
    """Pauses that double from `first_s` up to `longest_s`.

    `jitter` is the share by which a pause may be shortened at random, so that many callers do not retry at once.
    """

    def __init__(self, first_s: float, longest_s: float, jitter: float = 0.0) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._jitter = jitter
        self._next_s = first_s

    @property
    def begun(self) -> bool:
        """Whether there was a pause since the last reset."""
        return self._next_s > self._first_s

    def next_s(self) -> float:
        """The next pause, in seconds; the one after it is twice as long."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, self._longest_s)
        return pause_s * random.uniform(1 - self._jitter, 1)

    async def pause(self) -> None:
        """Sleeps for the next pause."""
        await asyncio.sleep(self.next_s())

    def reset(self) -> None:
        """Begins with the first pause again."""
        self._next_s = self._first_s
