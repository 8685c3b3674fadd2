"""The settler over the memory ledger and broker: sends that it settles together."""

import asyncio

import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.messages import Batch, Lane, Message, Outcome
from sender.copies import Copies, RetryPolicy
from sender.providers.bulk import Sends
from sender.settle import Settler
from sender.slots import Slots
from sender.unacked import Unacked
from tests.waiting import eventually

SEQS = np.arange(20)


@pytest.mark.parametrize("second", [Outcome.SENT, Outcome.FAILED, Outcome.RETRY])
@pytest.mark.parametrize("first", [Outcome.SENT, Outcome.FAILED, Outcome.RETRY])
async def test_two_sends_of_a_message_in_one_settle_count_once(first: Outcome, second: Outcome) -> None:
    """After a lost connection a sender sends again what it still has in flight; both sends may end at once."""
    broker, ledger, policy = MemoryBroker(), MemoryLedger(), RetryPolicy(max_attempts=2)
    copies = Copies(broker, ledger, policy)
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
