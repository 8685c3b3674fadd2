"""The settler over the memory ledger and broker: sends that it settles together."""

import asyncio

import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.ledger.values import Outcomes
from common.messages import Batch, Lane, Message, Outcome
from sender.copies import Copies, RetryPolicy
from sender.providers.bulk import Sends
from sender.settle import Settler
from sender.slots import Slots
from sender.timing import Timing
from sender.unacked import Unacked
from tests.waiting import eventually

SEQS = np.arange(20)


@pytest.mark.parametrize("second", [Outcome.SENT, Outcome.FAILED, Outcome.RETRY])
@pytest.mark.parametrize("first", [Outcome.SENT, Outcome.FAILED, Outcome.RETRY])
async def test_two_sends_of_a_message_in_one_settle_count_once(first: Outcome, second: Outcome) -> None:
    """After a lost connection a sender sends again what it still has in flight; both sends may end at once."""
    broker, ledger, policy = MemoryBroker(), MemoryLedger(), RetryPolicy(max_attempts=2)
    copies = Copies(broker, ledger, policy, on_refused=print)
    settler = Settler("sender", ledger, copies, policy)
    unacked = Unacked(Lane.BULK, Slots(100))
    await ledger.announce("run", 0, SEQS.size)
    await broker.publish(
        Batch(run="run", messages=[Message(seq, "+999000000000", "") for seq in SEQS.tolist()]), Lane.BULK
    )
    subscription = await broker.subscribe(Lane.BULK, 1)
    started = []
    for outcome in (first, second):
        (delivery,) = await subscription.take()
        await ledger.claim("run", SEQS, delivery.redelivered)
        sends = Sends(
            run="run",
            attempt=1,
            seqs=SEQS,
            owners=np.zeros(SEQS.size, np.int32),
            batches=[unacked.add(delivery)],
            on_finish=settler.add,
        )
        sends.outcomes[:] = outcome
        started.append(sends)
        broker.disconnect()

    running = [asyncio.create_task(copies.run()), asyncio.create_task(settler.run())]
    for sends in started:
        sends.finish(0, SEQS.size)

    async def settled_twice() -> bool:
        counts = settler.counts
        return sum(counts.of(outcome) for outcome in Outcome) == 2 * SEQS.size

    await eventually(settled_twice)
    for task in running:
        task.cancel()

    now = await ledger.snapshot("run")
    settled = first if first is not Outcome.RETRY else second
    assert now.published == 20
    assert now.sending == 0
    assert now.sent == (20 if settled is Outcome.SENT else 0)
    assert now.failed == (20 if settled is Outcome.FAILED else 0)
    assert now.queued == (20 if settled is Outcome.RETRY else 0)


class HeldUp:
    """Publishes and settles that wait until the test lets them through."""

    def __init__(self) -> None:
        self.kept, self.copied, self.settled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.settling = asyncio.Event()


class HeldUpBroker(MemoryBroker):
    def __init__(self, held_up: HeldUp) -> None:
        super().__init__()
        self._held_up = held_up

    def park(self, batch: Batch, lane: Lane) -> "asyncio.Future[None]":
        return asyncio.ensure_future(_after(self._held_up.kept, super().park(batch, lane)))

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        confirm = super().publish(batch, lane, after)
        return confirm if batch.attempt == 1 else asyncio.ensure_future(_after(self._held_up.copied, confirm))


class HeldUpLedger(MemoryLedger):
    def __init__(self, held_up: HeldUp) -> None:
        super().__init__()
        self._held_up = held_up

    async def settle(self, run: str, outcomes: Outcomes, sender: str = "", again: bool = False) -> None:
        if (outcomes.outcomes == Outcome.FAILED).any():
            self._held_up.settling.set()
            await self._held_up.settled.wait()
        await super().settle(run, outcomes, sender, again)


async def _after(event: asyncio.Event, confirm: "asyncio.Future[None]") -> None:
    await event.wait()
    await confirm


async def test_drain_waits_for_a_settle_of_kept_failures_that_is_under_way() -> None:
    """A failure is kept while another message's copy is not confirmed, so its settle begins during the drain."""
    held_up = HeldUp()
    broker, ledger = HeldUpBroker(held_up), HeldUpLedger(held_up)
    policy = RetryPolicy(max_attempts=2, keep_failed=True)
    copies = Copies(broker, ledger, policy, on_refused=print)
    settler = Settler("sender", ledger, copies, policy, timing=Timing(longest_unsettled_s=0.001))
    await ledger.announce("run", 0, 2)
    messages = [Message(seq, "+999000000000", "") for seq in range(2)]
    await broker.publish(Batch(run="run", messages=messages), Lane.BULK)
    (delivery,) = await (await broker.subscribe(Lane.BULK, 1)).take()
    await ledger.claim("run", np.arange(2), False)
    sends = Sends(
        run="run",
        attempt=1,
        seqs=np.arange(2),
        owners=np.zeros(2, np.int32),
        batches=[Unacked(Lane.BULK, Slots(100)).add(delivery)],
        on_finish=settler.add,
    )
    sends.outcomes[:] = [Outcome.FAILED, Outcome.RETRY]
    sends.finish(0, 2)

    running = [asyncio.create_task(copies.run()), asyncio.create_task(settler.run())]
    drain = asyncio.create_task(settler.drain())
    held_up.kept.set()
    await held_up.settling.wait()
    held_up.copied.set()
    for _ in range(100):
        await asyncio.sleep(0)
    assert not drain.done()
    held_up.settled.set()
    await drain
    assert (await ledger.snapshot("run")).failed == 1
    for task in running:
        task.cancel()
