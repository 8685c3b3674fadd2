"""A gateway that dies while it takes messages back: whatever it was at, no message is left as if somebody sent it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.messages import Batch, Lane, Message, State, decode_batch
from common.tracking.memory import MemoryTracker
from common.web.problems import Problem
from gateway.acceptance import batch_intake, groups
from gateway.acceptance.batch_intake import BatchIntake, BatchRun
from gateway.acceptance.intake import Intake
from gateway.acceptance.recovery import Recovery
from tests.gateway.running import NUMBER
from tests.gateway.test_intake import NothingOwed

MESSAGES = 3
# More than any of the two needs.
MOST_STEPS = 40


class Unconfirmed(MemoryBroker):
    """Keeps what is published, and confirms none of it before it is `confirming`."""

    confirming = False

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        confirmed = super().publish(batch, lane, after)
        return confirmed if self.confirming else asyncio.get_running_loop().create_future()


class Steps:
    """The ledger of a gateway that dies after so many steps: one before each call is carried out, one after it."""

    def __init__(self, ledger: Ledger, left: int) -> None:
        self._ledger, self._left = ledger, left
        self.died = asyncio.Event()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        carry_out = getattr(self._ledger, name)

        async def call(*args: Any, **more: Any) -> Any:
            await self._step()
            answer = await carry_out(*args, **more)
            await self._step()
            return answer

        return call

    async def _step(self) -> None:
        if self._left == 0:
            self.died.set()
        if self.died.is_set():
            await asyncio.Event().wait()  # for nothing: the dead do no more
        self._left -= 1


async def _singles(broker: MemoryBroker, ledger: Ledger, tracker: MemoryTracker) -> None:
    """Posts some messages, one by one; each is refused."""
    taking = Intake(broker, ledger, tracker, NothingOwed(), "dying")
    await taking.open()
    accepts = [taking.accept(NUMBER, "hello", Lane.BULK) for _ in range(MESSAGES)]
    assert all(
        isinstance(answer, Problem) for answer in await asyncio.gather(*accepts, return_exceptions=True)
    )


async def _batch(broker: MemoryBroker, ledger: Ledger, tracker: MemoryTracker) -> None:
    """Posts some messages as a batch; it is refused."""
    taking = BatchIntake(broker, ledger, tracker, NothingOwed(), "dying")
    messages = [Message(seq, NUMBER, "hello") for seq in range(MESSAGES)]
    with pytest.raises(Problem):
        await taking.accept(BatchRun("a-batch", messages, Lane.BULK, track=False))


@pytest.mark.parametrize("post", [_singles, _batch])
async def test_a_gateway_may_die_at_any_step(
    post: Callable[[MemoryBroker, Ledger, MemoryTracker], Coroutine[Any, Any, None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is left sending; and once another gateway has finished the run, all of it failed, or all is queued."""
    monkeypatch.setattr(groups, "TRY_FOR_S", 0.1)
    monkeypatch.setattr(batch_intake, "PUBLISH_WITHIN_S", 0.1)
    ends = set()
    for left in range(MOST_STEPS):
        broker, ledger, tracker = Unconfirmed(), MemoryLedger(), MemoryTracker()
        steps = Steps(ledger, left)
        before = asyncio.all_tasks()
        posting = asyncio.create_task(post(broker, cast(Ledger, steps), tracker))
        died = asyncio.create_task(steps.died.wait())
        await asyncio.wait([posting, died], timeout=60, return_when=asyncio.FIRST_COMPLETED)
        for task in asyncio.all_tasks() - before:
            task.cancel()
        if posting.done():
            await posting
            break
        await asyncio.gather(*(asyncio.all_tasks() - before), return_exceptions=True)
        for run in await ledger.runs():
            assert (await ledger.snapshot(run)).sending == 0
            await ledger.leave(run, "dying")
            broker.confirming = True
            await Recovery(broker, ledger, tracker, "another").finish(run)
            ends.add(await _end(run, ledger, broker))
    else:
        raise AssertionError("it takes more steps than that")
    assert ends == {"queued", "failed"}


async def _end(run: str, ledger: MemoryLedger, broker: MemoryBroker) -> str:
    """What became of a run that was finished, the same of all its messages."""
    now = await ledger.snapshot(run)
    assert now.total == now.published
    states = set((await ledger.states(run, np.arange(now.published))).tolist())
    assert len(states) <= 1, "all of them or none"
    if states == {State.FAILED}:
        return "failed"
    waiting = {m.seq for held in broker.queues[Lane.BULK].bodies for m in decode_batch(held.body)[0].messages}
    assert waiting >= set(range(now.published))
    return "queued"
