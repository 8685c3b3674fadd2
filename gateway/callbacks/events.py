"""Learns from the tracker's events which messages have ended.

Events only speed delivery up. A message whose event is missed is found by the store's schedule.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from common.tracking.port import Tracker
from gateway.callbacks.finals import ENDED


class EndEvents:
    """The events of expected messages, at most `limit` of them; the oldest are dropped."""

    def __init__(self, tracker: Tracker, limit: int) -> None:
        self._tracker = tracker
        self._limit = limit
        self._expected: dict[str, None] = {}
        self._ended: deque[str] = deque(maxlen=limit)
        self._arrived = asyncio.Event()

    def expect(self, uuids: Iterable[str]) -> None:
        """Awaits the events of these messages."""
        self._expected.update(dict.fromkeys(uuids))
        while len(self._expected) > self._limit:
            del self._expected[next(iter(self._expected))]

    async def listen(self) -> None:
        """Receives events until cancelled."""
        async for steps in self._tracker.listen():
            for step in steps:
                if step.status in ENDED and step.uuid in self._expected:
                    del self._expected[step.uuid]
                    self._ended.append(step.uuid)
                    self._arrived.set()

    def take(self, count: int) -> list[str]:
        """Removes and returns up to `count` messages that have ended."""
        return [self._ended.popleft() for _ in range(min(count, len(self._ended)))]

    async def wait(self, timeout_s: float) -> None:
        """Waits until a message has ended, or for `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
        self._arrived.clear()
