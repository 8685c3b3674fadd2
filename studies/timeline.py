"""How many messages were settled when: the steady rate is read off that, with ramp and tail left out."""

import asyncio
import contextlib
import math
from bisect import bisect_left
from collections.abc import AsyncIterator, Coroutine
from typing import Any

SAMPLE_S = 0.025
# A phase of fewer samples than some ten says nothing.
SHORTEST_PHASE_S = 0.25
# Of all messages, the first and the last so many are ramp and tail.
MARGIN = 0.15


def margin(messages_per_sender: int) -> float:
    """The share to leave out at either end: 15 %, at least 1.5 messages of each sender.

    Senders that begin together settle in waves, one for each of their messages. From the middle of one wave to the
    middle of another is a whole number of them; any other cut would count a wave that took no time, or the reverse.
    """
    waves = max(1.5, math.floor(MARGIN * messages_per_sender) + 0.5)
    return waves / messages_per_sender


@contextlib.asynccontextmanager
async def sampling(samples: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Lets samples be taken until the end of the block, however it ends; raises there what went wrong with them."""
    task = asyncio.create_task(samples)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Timeline:
    """Samples of the settled count, from the run's beginning on."""

    def __init__(self) -> None:
        self._at_s = [0.0]
        self._settled = [0]
        self.peak_in_flight = 0

    def note(self, at_s: float, settled: int, in_flight: int = 0) -> None:
        """So many are settled so many seconds after the beginning. Neither may be less than before."""
        self._at_s.append(at_s)
        self._settled.append(settled)
        self.peak_in_flight = max(self.peak_in_flight, in_flight)

    def steady_per_s(self, total: int, margin: float = MARGIN) -> float | None:
        """The rate between the moments when the shares `margin` and 1 - `margin` of `total` were settled.

        None where there is no such phase: too few messages, or too short a time.
        """
        first, last = margin * total, (1 - margin) * total
        if last - first < 1:
            return None
        begin_s, end_s = self._reached_s(first), self._reached_s(last)
        if begin_s is None or end_s is None or end_s - begin_s < SHORTEST_PHASE_S:
            return None
        return (last - first) / (end_s - begin_s)

    def _reached_s(self, count: float) -> float | None:
        """When `count` were settled, with the settles between two samples taken for evenly spread."""
        after = bisect_left(self._settled, count)
        if after in (0, len(self._settled)):
            return None
        before = after - 1
        share = (count - self._settled[before]) / (self._settled[after] - self._settled[before])
        return self._at_s[before] + share * (self._at_s[after] - self._at_s[before])
