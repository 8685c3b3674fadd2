"""What a study starts and makes: a process that fails says why, and queues are deleted without a trace."""

import asyncio
import sys
from typing import Any

import pytest

from common.broker.rabbitmq.link import delete
from studies.scale.processes import Child, StudyFailed


async def test_a_process_that_fails_says_why() -> None:
    """Its last line, and how it ended."""
    with pytest.raises(StudyFailed, match=r"^it: ended by exit code 3: the reason$"):
        async with Child(
            "it", [sys.executable, "-c", "import sys; print('the reason', file=sys.stderr); exit(3)"]
        ) as child:
            await child.result()
    with pytest.raises(StudyFailed, match=r"SIGKILL \(out of memory\?\)"):
        async with Child("it", [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) as child:
            await child.result()


class SilentChannel:
    """Takes a wish and never answers."""

    asked = False

    def queue_delete(self, *_: object, **__: object) -> None:
        self.asked = True


async def test_cleaning_up_that_is_cut_short_leaves_no_task() -> None:
    """A queue that RabbitMQ does not delete in time: whoever stops waiting for it leaves nothing waiting."""
    channel: Any = SilentChannel()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await delete(channel, asyncio.get_running_loop().create_future(), "a-queue")
    assert channel.asked
    assert asyncio.all_tasks() == {asyncio.current_task()}
