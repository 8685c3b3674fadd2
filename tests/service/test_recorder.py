"""The recorder over the memory ledger and broker: what it settles together."""

import asyncio

import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.messages import Batch, Lane, Message, Outcome
from sender.providers.bulk import Sends
from sender.recorder import Recorder
from sender.unacked import hold
from tests.waiting import eventually

SEQS = np.arange(20)


@pytest.mark.parametrize("second", [Outcome.SENT, Outcome.FAILED, Outcome.RETRY])
@pytest.mark.parametrize("first", [Outcome.SENT, Outcome.FAILED, Outcome.RETRY])
async def test_two_sends_of_a_message_in_one_settle_count_once(first: Outcome, second: Outcome) -> None:
    """A sender whose connection was cut sends again what it still has in flight; both sends may end at once."""
    broker, ledger = MemoryBroker(), MemoryLedger()
    recorder = Recorder(ledger, broker, "sender", max_attempts=2)
    await ledger.announce("run", 0, SEQS.size)
    await broker.publish(
        Batch(run="run", messages=[Message(seq, "+999000000000", "") for seq in SEQS.tolist()]), Lane.BULK
    )
    subscription = await broker.subscribe(Lane.BULK, 1)
    started = []
    for outcome in (first, second):
        (delivery,) = await subscription.take()
        await ledger.claim("run", SEQS, delivery.redelivered)
        owners = np.zeros(SEQS.size, np.int32)
        sends = Sends("run", 1, SEQS, owners, [hold(delivery, lambda _: None, 0.0)], recorder.add)
        sends.outcomes[:] = outcome
        started.append(sends)
        broker.disconnect()

    for sends in started:
        sends.finish(0, SEQS.size)
    running = asyncio.create_task(recorder.run())
    await eventually(lambda: recorder.mean_time_s is not None)
    running.cancel()

    now = await ledger.snapshot("run")
    settled = first if first is not Outcome.RETRY else second
    assert now.published == 20
    assert now.sending == 0
    assert now.sent == (20 if settled is Outcome.SENT else 0)
    assert now.failed == (20 if settled is Outcome.FAILED else 0)
    assert now.queued == (20 if settled is Outcome.RETRY else 0)
