"""How many messages were settled at which moment. The steady rate, without ramp and tail, is read from that."""

import asyncio
import contextlib
import math
from bisect import bisect_left
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from common.ledger.values import Snapshot

SAMPLE_S = 0.025
# The share of all messages at the begin, and at the end, that is ramp and tail.
MARGIN = 0.15
# A phase of fewer than ten samples or so shows nothing.
SHORTEST_PHASE_S = 10 * SAMPLE_S


def margin(messages_per_sender: int) -> float:
    """The share to leave out at either end: 15 %, and at least 1.5 messages of each sender.

    Senders that begin together settle in waves, one for each of their messages. From the middle of one wave to the
    middle of another there is a whole number of waves. Any other cut would count a wave without the time it took, or
    the reverse.
    """
    waves = max(1.5, math.floor(MARGIN * messages_per_sender) + 0.5)
    return waves / messages_per_sender


@contextlib.asynccontextmanager
async def sampling(samples: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Takes samples until the block ends. Raises at its end if taking them failed."""
    task = asyncio.create_task(samples)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Timeline:
    """Samples of the settled count, from the run's begin on.

    Attributes:
        peak_in_flight: The most sends in flight in any sample.
    """

    def __init__(self) -> None:
        self._at_s = [0.0]
        self._settled = [0]
        self.peak_in_flight = 0

    def note(self, at_s: float, settled: int, in_flight: int = 0) -> None:
        """Adds a sample. The time since the run's begin and the settled count must not fall."""
        self._at_s.append(at_s)
        self._settled.append(settled)
        self.peak_in_flight = max(self.peak_in_flight, in_flight)

    def note_snapshot(self, now: Snapshot) -> None:
        """Adds a snapshot of the run, by the ledger's clock."""
        reached_us = now.now_us if now.settled < now.total else now.last_settled_us
        self.note((reached_us - now.started_us) / 1e6, now.settled, now.sending)

    def steady_per_s(self, total: int, margin: float = MARGIN) -> float | None:
        """The rate between the moments at which the shares `margin` and 1 - `margin` of `total` were settled.

        None without such a phase: too few messages, or too short a time.
        """
        first, last = margin * total, (1 - margin) * total
        if last - first < 1:
            return None
        begin_s, end_s = self._reached_s(first), self._reached_s(last)
        if begin_s is None or end_s is None or end_s - begin_s < SHORTEST_PHASE_S:
            return None
        return (last - first) / (end_s - begin_s)

    def _reached_s(self, count: float) -> float | None:
        """When `count` were settled, on the assumption that settles are evenly spread between two samples."""
        after = bisect_left(self._settled, count)
        if after in (0, len(self._settled)):
            return None
        before = after - 1
        share = (count - self._settled[before]) / (self._settled[after] - self._settled[before])
        return self._at_s[before] + share * (self._at_s[after] - self._at_s[before])
