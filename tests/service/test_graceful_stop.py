"""A sender that stops in the middle of a batch leaves each message in the queues once, or settled."""

import asyncio
from collections import Counter

import pytest

from common.broker.memory import MemoryBroker
from common.broker.port import Delivery, ParkedQueue, Subscription
from common.errors import PublishFailed, Refused
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


class Refusing(MemoryBroker):
    """A broker that loses its connections, and then lets nobody in again: for consuming, or for publishing."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = asyncio.Event()

    async def ready(self) -> None:
        if self.refused.is_set():
            raise Refused("access refused")

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        confirm = super().publish(batch, lane, after)
        if self.refused.is_set():
            confirm = asyncio.get_running_loop().create_future()
            confirm.set_exception(PublishFailed("the connection is lost"))
        return confirm

    async def subscribe(self, queue: Lane | ParkedQueue, prefetch: int) -> Subscription:
        return RefusedSubscription(await super().subscribe(queue, prefetch), self.refused)


class RefusedSubscription:
    """A subscription that ends with a refusal."""

    def __init__(self, inner: Subscription, refused: asyncio.Event) -> None:
        self._inner = inner
        self._refused = refused
        self.set_prefetch, self.close = inner.set_prefetch, inner.close

    async def take(self) -> list[Delivery]:
        taking = asyncio.ensure_future(self._inner.take())
        refusing = asyncio.ensure_future(self._refused.wait())
        try:
            await asyncio.wait({taking, refusing}, return_when=asyncio.FIRST_COMPLETED)
            if refusing.done():
                raise Refused("access refused")
            return taking.result()
        finally:
            taking.cancel()
            refusing.cancel()


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


@pytest.mark.parametrize("connections_lost", [True, False])
async def test_a_sender_that_is_refused_records_what_is_in_flight(connections_lost: bool) -> None:
    """It begins nothing more, waits for the sends in flight, records them, and ends with the refusal.

    So nothing is ambiguous. What is to be retried, and could not be published, comes again.
    """
    broker, ledger, provider = Refusing(), MemoryLedger(), Held()
    await ledger.announce(RUN, 0, MESSAGES)
    messages = [Message(seq, "+999123456789", "text") for seq in range(MESSAGES)]
    await broker.publish(Batch(run=RUN, messages=messages), Lane.BULK)
    policy = RetryPolicy(max_attempts=2, backoff_s=400)
    sender = Sender("s", broker, ledger, provider, slots=SLOTS, policy=policy)
    running = asyncio.create_task(sender.run(asyncio.Event()))
    await eventually(lambda: len(provider.in_flight) == SLOTS)
    broker.refused.set()
    if connections_lost:
        broker.disconnect()
    await eventually(lambda: all(lane.stopping for lane in sender.lanes))
    for seq in provider.in_flight:
        provider.end(seq, Outcome.SENT if seq else Outcome.RETRY)
    with pytest.raises(Refused, match="access refused"):
        await running
    now = await ledger.snapshot(RUN)
    assert (now.sent, now.sending, now.queued) == (SLOTS - 1, 0, MESSAGES - SLOTS + 1)
    broker.disconnect()
    assert set(await in_queues(broker)) == {(seq, 1) for seq in range(MESSAGES)}


async def test_a_sender_whose_copies_are_refused_ends_in_order() -> None:
    """It may consume and not publish, as a user without the permission: no traceback, and nothing is lost."""

    class NoCopies(MemoryBroker):
        def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
            if batch.attempt == 1:
                return super().publish(batch, lane, after)
            confirm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            confirm.set_exception(Refused("no permission to publish"))
            return confirm

    broker, ledger, provider = NoCopies(), MemoryLedger(), Held()
    await ledger.announce(RUN, 0, 2)
    messages = [Message(seq, "+999123456789", "text") for seq in range(2)]
    await broker.publish(Batch(run=RUN, messages=messages), Lane.BULK)
    sender = Sender("s", broker, ledger, provider, slots=SLOTS, policy=RetryPolicy(max_attempts=2))
    running = asyncio.create_task(sender.run(asyncio.Event()))
    await eventually(lambda: len(provider.in_flight) == 2)
    provider.end(0, Outcome.RETRY)
    await eventually(lambda: all(lane.stopping for lane in sender.lanes))
    provider.end(1, Outcome.SENT)
    with pytest.raises(Refused, match="no permission to publish"):
        await running
    now = await ledger.snapshot(RUN)
    assert (now.sent, now.sending, now.queued) == (1, 0, 1)
    broker.disconnect()
    assert await in_queues(broker) == {(0, 1): 1, (1, 1): 1}
