"""Readings that many ask for: nobody gets one from before they asked, and all together cost a few a second."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

EVERY_S = 0.1


class Fresh(Generic[T]):
    """Reads one at a time, and begins no more often than every EVERY_S; all who ask before it begins share a reading.

    So whoever was answered 202 finds his message in what he asks for next, at whatever gateway.
    """

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._one_at_a_time = asyncio.Lock()
        self._began_s = float("-inf")
        self._next: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """A reading that begins from now on. Raises what the reading raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._read_next())
            self._next.add_done_callback(_look_at)
        return await asyncio.shield(self._next)

    async def _read_next(self) -> T:
        async with self._one_at_a_time:
            await asyncio.sleep(self._began_s + EVERY_S - time.monotonic())
            self._began_s = time.monotonic()
            self._next = None  # whoever comes from now on needs another
            return await self._read()


def _look_at(task: "asyncio.Task[T]") -> None:
    """All who waited may have gone; then nobody else hears of its error."""
    if not task.cancelled():
        task.exception()
