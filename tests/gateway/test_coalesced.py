"""Readings that many share: none is from before they asked."""

import asyncio
from collections.abc import Iterator

import pytest

from common.errors import Unavailable
from gateway.live.coalesced import CoalescedRead
from tests.waiting import eventually


async def test_what_was_written_before_is_read() -> None:
    """A reading that is under way when something is written is not the answer to who asks after that."""
    held, reads = asyncio.Event(), 0

    async def read() -> int:
        nonlocal reads
        reads += 1
        before = written
        await held.wait()
        return before

    written = 1
    fresh = CoalescedRead(read, every_s=0.1)
    first = asyncio.create_task(fresh.get())
    await eventually(lambda: reads == 1)
    written = 2
    second = [asyncio.create_task(fresh.get()) for _ in range(3)]
    held.set()
    assert (await first, [await one for one in second], reads) == (1, [2, 2, 2], 2)


async def test_a_reading_that_fails_fails_for_those_who_asked_only() -> None:
    """The next one goes its own way; and who gives up takes it from nobody."""
    answers: Iterator[Unavailable | int] = iter([Unavailable("away"), 7])

    async def read() -> int:
        answer = next(answers)
        if isinstance(answer, int):
            return answer
        raise answer

    fresh = CoalescedRead(read, every_s=0.1)
    gone, waits = asyncio.create_task(fresh.get()), asyncio.create_task(fresh.get())
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(Unavailable):
        await waits
    assert await fresh.get() == 7
