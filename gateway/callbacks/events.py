"""Learns from the tracker's events which messages have ended.

Events only speed delivery up. A message whose event is missed is found by the store's schedule.
"""

import asyncio
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
        self._ended: dict[str, None] = {}
        self._arrived = asyncio.Event()

    def expect(self, uuids: Iterable[str]) -> None:
        """Awaits the events of these messages."""
        self._add(self._expected, uuids)

    async def listen(self) -> None:
        """Receives events until cancelled."""
        async for steps in self._tracker.listen():
            ended = [s.uuid for s in steps if s.status in ENDED and s.uuid in self._expected]
            if ended:
                self._add(self._ended, ended)
                self._arrived.set()
            for uuid in ended:
                self._expected.pop(uuid, None)

    def take(self, count: int) -> list[str]:
        """Removes and returns up to `count` messages that have ended."""
        taken = list(self._ended)[:count]
        for uuid in taken:
            del self._ended[uuid]
        return taken

    async def wait(self, timeout_s: float) -> None:
        """Waits until a message has ended, or for `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
        self._arrived.clear()

    def _add(self, uuids: dict[str, None], added: Iterable[str]) -> None:
        uuids.update(dict.fromkeys(added))
        while len(uuids) > self._limit:
            del uuids[next(iter(uuids))]
