"""Asking Redis: a caller that is cancelled, or out of time, is let go whatever the client does about it."""

import asyncio

import pytest
from redis.exceptions import ConnectionError

from common.redis import retry_until_answered


async def answered_all_the_same() -> str:
    """As the client on Python 3.11, where a cancellation comes just when the command was sent."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "the answer"
    raise AssertionError("nothing else ends it")


async def failed_all_the_same() -> str:
    """The same, and then the connection breaks."""
    await answered_all_the_same()
    raise ConnectionError("gone")


@pytest.mark.parametrize("ask", [answered_all_the_same, failed_all_the_same])
async def test_a_cancellation_is_never_lost(ask: object) -> None:
    """Whoever cancels a task that asks can wait for its end."""
    asking = asyncio.create_task(retry_until_answered(ask))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_deadline_is_never_lost() -> None:
    """A timeout around it is a timeout, though the answer came; what is asked next is asked as ever."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await retry_until_answered(answered_all_the_same)

    async def answered() -> str:
        return "another"

    assert await retry_until_answered(answered) == "another"
