"""Shares one fresh read among concurrent callers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CoalescedRead(Generic[T]):
    """Reads one at a time, and begins no more often than every `every_s` seconds.

    A caller never gets a read that began before its call: after a 202, the next GET shows the message at any gateway.
    """

    def __init__(self, read: Callable[[], Awaitable[T]], every_s: float) -> None:
        self._read = read
        self._every_s = every_s
        self._one_at_a_time = asyncio.Lock()
        self._began_s = float("-inf")
        self._next: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The result of a read that begins after this call. Raises what the read raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._read_next())
            self._next.add_done_callback(_retrieve)
        return await asyncio.shield(self._next)

    async def _read_next(self) -> T:
        async with self._one_at_a_time:
            await asyncio.sleep(self._began_s + self._every_s - time.monotonic())
            self._began_s = time.monotonic()
            self._next = None  # later callers need another read
            return await self._read()


def _retrieve(task: "asyncio.Task[T]") -> None:
    """All callers may have been cancelled; then nobody else retrieves the exception."""
    if not task.cancelled():
        task.exception()
