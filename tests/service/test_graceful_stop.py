"""A sender that stops in the middle of a batch leaves each message in the queues once, or settled."""

import asyncio
from collections import Counter

import pytest

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.ledger.values import Claim
from common.messages import Batch, Lane, Message, Outcome, Seqs, decode_batch
from sender.copies import RetryPolicy
from sender.providers.bulk import Sends
from sender.service import Sender
from tests.waiting import eventually

RUN = "graceful-stop"
MESSAGES = 10
SLOTS = 4


class Held:
    """A provider whose sends end when the test ends them."""

    reads_messages = False

    def __init__(self) -> None:
        self._places: dict[int, tuple[Sends, int]] = {}

    def start(self, sends: Sends) -> None:
        self._places |= {seq: (sends, k) for k, seq in enumerate(sends.seqs.tolist())}

    @property
    def in_flight(self) -> list[int]:
        return sorted(self._places)

    def end(self, seq: int, outcome: Outcome) -> None:
        sends, k = self._places.pop(seq)
        sends.outcomes[k] = outcome
        sends.finish(k, k + 1)

    async def close(self) -> None:
        return


class HeldUpLedger(MemoryLedger):
    """A ledger whose claims wait while `go_on` is cleared; `claiming` is set once one does."""

    def __init__(self) -> None:
        super().__init__()
        self.claiming, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def claim(self, run: str, seqs: Seqs, redelivered: bool) -> Claim:
        if not self.go_on.is_set():
            self.claiming.set()
        await self.go_on.wait()
        return await super().claim(run, seqs, redelivered)


async def in_queues(broker: MemoryBroker) -> dict[tuple[int, int], int]:
    """How often each (seq, attempt) is in a queue, that of retries included."""
    bodies = [decode_batch(body)[0] for _, body in [one async for one in broker.peek()]]
    return Counter((message.seq, batch.attempt) for batch in bodies for message in batch.messages)


@pytest.mark.parametrize("while_claiming", [False, True])
async def test_what_is_left_of_a_batch_stays_in_the_queues_once(while_claiming: bool) -> None:
    """One of it is to be retried, others are sent, and the rest was not begun, or is being claimed just then.

    Were the batch handed back whole, the retried message would come twice, and might be sent twice.
    """
    broker, ledger, provider, stop = MemoryBroker(), HeldUpLedger(), Held(), asyncio.Event()
    await ledger.announce(RUN, 0, MESSAGES)
    messages = [Message(seq, "+999123456789", "text") for seq in range(MESSAGES)]
    await broker.publish(Batch(run=RUN, messages=messages), Lane.BULK)
    sender = Sender(
        "s", broker, ledger, provider, slots=SLOTS, policy=RetryPolicy(max_attempts=2, backoff_s=400)
    )
    running = asyncio.create_task(sender.run(stop))
    await eventually(lambda: len(provider.in_flight) == SLOTS)
    if while_claiming:
        ledger.go_on.clear()
        provider.end(0, Outcome.RETRY)
        await ledger.claiming.wait()
    stop.set()
    await eventually(lambda: all(lane.stopping for lane in sender.lanes))
    ledger.go_on.set()
    for seq in provider.in_flight:
        provider.end(seq, Outcome.SENT if seq else Outcome.RETRY)
    await running
    assert await in_queues(broker) == {(0, 2): 1} | {(seq, 1): 1 for seq in range(SLOTS, MESSAGES)}
    now = await ledger.snapshot(RUN)
    assert (now.sent, now.sending, now.queued, now.ambiguous) == (SLOTS - 1, 0, MESSAGES - SLOTS + 1, 0)
    await broker.close()
