"""common/redis/client.py: a cancellation is never lost in a call of Redis."""

import asyncio

import pytest

from common.redis import cancellable


async def drained() -> str:
    return "answer"


async def ask() -> str:
    """As redis-py sends: before Python 3.12 `wait_for` loses a cancellation that arrives as it ends."""
    return await asyncio.wait_for(drained(), 60)


async def test_a_task_that_a_signal_cancels_while_it_runs() -> None:
    """The handler runs within the task: asyncio delivers the cancellation where the task next waits."""

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await cancellable(ask)
        raise AssertionError("it goes on")

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(work())


async def test_a_task_that_is_cancelled_in_a_call() -> None:
    """At each turn of the loop that the call takes."""
    for turns in range(5):
        task = asyncio.create_task(cancellable(ask))
        for _ in range(turns):
            await asyncio.sleep(0)
        if not task.done():
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_the_cleanup_of_a_cancelled_task_may_ask() -> None:
    """Such as that of a producer, which gives up its run."""

    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return str(await cancellable(ask))
        return "never"

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "answer"
