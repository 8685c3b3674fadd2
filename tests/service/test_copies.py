"""Copies for another attempt: shared over batches and flushes, and confirmed before their originals are acked.

In virtual time, on a clock that jumps to the next timer.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.ledger.values import Snapshot
from common.messages import MAX_BODY_BYTES, Batch, Lane, Message, decode_batch
from sender.copies import RetryPolicy
from sender.providers.profiles import Profile
from sender.providers.simulated import SimulatedProvider
from sender.service import Sender
from sender.timing import Limits, Timing
from tests.model.world import VirtualLoop

RUN = "copies"
# The sends end within about 0.2 s, so in several flushes; all of their retries wait in the queue of 0.125 s.
PROFILE = Profile(mean_s=0.1, stddev_s=0.03, retry=1)
POLICY = RetryPolicy(max_attempts=2, backoff_s=0.125)


class NotingBroker(MemoryBroker):
    """Notes the copies: how many messages each has, and how many deliveries are unacked at that moment."""

    def __init__(self, most_bytes: int = MAX_BODY_BYTES) -> None:
        super().__init__(most_bytes=most_bytes)
        self.copies: list[int] = []
        self.unacked_then: list[int] = []

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        if batch.attempt > 1:
            self.copies.append(len(batch.messages))
            self.unacked_then.append(self.unacked)
        return super().publish(batch, lane, after)

    @property
    def unacked(self) -> int:
        return sum(subscription.unacked for subscription in self.subscriptions)


class Pipeline:
    def __init__(self, loop: VirtualLoop, policy: RetryPolicy = POLICY, **broker: int) -> None:
        self.broker = NotingBroker(**broker)
        self._policy = policy
        self.ledger = MemoryLedger(clock=loop.time)

    async def publish(self, batches: int, run: str = RUN) -> None:
        """Batches of one message."""
        await self.ledger.announce(run, 0, batches)
        for seq in range(batches):
            message = Message(seq, "+358401234567", "text")
            await self.broker.publish(Batch(run=run, messages=[message]), Lane.BULK)

    def sender(self, **more: Any) -> AbstractAsyncContextManager[None]:
        return _running(
            Sender(
                "s",
                self.broker,
                self.ledger,
                SimulatedProvider(PROFILE, seed=1),
                slots=1_000,
                policy=self._policy,
                **more,
            )
        )

    async def settled(self, count: int) -> Snapshot:
        while (now := await self.ledger.snapshot()).settled < count:
            await asyncio.sleep(0.01)
        return now


@asynccontextmanager
async def _running(sender: Sender) -> Any:
    stop = asyncio.Event()
    running = asyncio.create_task(sender.run(stop))
    yield
    stop.set()
    await running


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def test_copies_over_the_brokers_size_limit_are_published_in_smaller_ones(loop: VirtualLoop) -> None:
    """Its operator has lowered the limit: a shared copy, and one for the failed queue, would be tried for ever."""
    kept = RetryPolicy(max_attempts=2, backoff_s=0.125, keep_failed=True)
    pipeline = Pipeline(loop, kept, most_bytes=300)

    async def run() -> None:
        await pipeline.publish(100)
        async with pipeline.sender(timing=Timing(merge_s=1.0)):
            now = await pipeline.settled(100)
        assert (now.retried, now.failed, now.ambiguous) == (100, 100, 0)

    loop.run(run())
    assert pipeline.broker.copies[0] == 100
    parked = [decode_batch(body)[0] for body, _ in pipeline.broker.failed]
    assert sorted(message.seq for batch in parked for message in batch.messages) == list(range(100))
    assert pipeline.broker.unacked == 0


def test_retries_of_many_batches_share_a_copy(loop: VirtualLoop) -> None:
    """Over several flushes; no batch is acked before the copy is published, and all are acked afterwards."""
    pipeline = Pipeline(loop)

    async def run() -> None:
        await pipeline.publish(100)
        async with pipeline.sender(timing=Timing(merge_s=1.0)):
            now = await pipeline.settled(100)
        assert (now.retried, now.failed, now.ambiguous) == (100, 100, 0)

    loop.run(run())
    assert pipeline.broker.copies == [100]
    assert pipeline.broker.unacked_then == [100]
    assert pipeline.broker.unacked == 0


def test_a_copy_has_no_more_messages_than_the_limit(loop: VirtualLoop) -> None:
    """The rest goes in further copies."""
    pipeline = Pipeline(loop)

    async def run() -> None:
        await pipeline.publish(100)
        async with pipeline.sender(timing=Timing(merge_s=1.0), limits=Limits(copy_messages=40)):
            await pipeline.settled(100)

    loop.run(run())
    assert pipeline.broker.copies == [40, 40, 20]


def test_runs_share_no_copies(loop: VirtualLoop) -> None:
    """A batch has messages of one run."""
    pipeline = Pipeline(loop)

    async def run() -> None:
        await pipeline.publish(10)
        await pipeline.publish(20, run="another")
        async with pipeline.sender(timing=Timing(merge_s=1.0)):
            await pipeline.settled(30)

    loop.run(run())
    assert sorted(pipeline.broker.copies) == [10, 20]


def test_a_lost_connection_leaves_its_messages_out_of_the_copy(loop: VirtualLoop) -> None:
    """They are redelivered, and queued since their settle: each is sent again as attempt 1, and counted once."""
    pipeline = Pipeline(loop)

    async def run() -> Snapshot:
        await pipeline.publish(100)
        async with pipeline.sender(timing=Timing(merge_s=1.0)):
            while (await pipeline.ledger.snapshot()).retried < 100:
                await asyncio.sleep(0.01)
            pipeline.broker.disconnect()
            return await pipeline.settled(100)

    now = loop.run(run())
    assert (now.published, now.failed, now.sending, now.ambiguous) == (100, 100, 0, 0)
    assert now.retried == 200
    assert sum(pipeline.broker.copies) == 100


def test_a_stop_publishes_what_is_gathered(loop: VirtualLoop) -> None:
    """A sender that stops does not wait for the rest of the gathering time, and loses no retry."""
    pipeline = Pipeline(loop)

    async def run() -> None:
        await pipeline.publish(100)
        async with pipeline.sender(timing=Timing(merge_s=3600.0)):
            while (await pipeline.ledger.snapshot()).retried < 100:
                await asyncio.sleep(0.01)

    loop.run(run())
    assert loop.time() < 60
    assert sum(pipeline.broker.copies) == 100
    assert pipeline.broker.unacked == 0
