"""How the lanes of a sender share its slots: urgent messages first, and in every slot that is free."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.messages import Batch, Lane, Message, Outcome
from common.rate.memory import MemoryRateLimit
from common.rate.port import Grant
from sender.copies import RetryPolicy
from sender.providers.bulk import Sends
from sender.service import Sender
from sender.timing import Timing
from tests.waiting import eventually

BULK, URGENT = Lane.BULK, Lane.URGENT
TIMING = Timing(review_s=0.005, calm_s=0.06, merge_s=0)
NO_REVIEW = Timing(review_s=3600)


class Held:
    """A provider that ends sends when the test ends them, and knows how many there were at once."""

    reads_messages = False

    def __init__(self) -> None:
        self._held: dict[Lane, deque[tuple[Sends, int]]] = {lane: deque() for lane in Lane}
        self.most_bulk = self.most = 0

    def start(self, sends: Sends) -> None:
        self._held[sends.batches[0].delivery.lane].extend((sends, k) for k in range(sends.seqs.size))
        self.most_bulk = max(self.most_bulk, self.now(BULK))
        self.most = max(self.most, self.now(BULK) + self.now(URGENT))

    def now(self, lane: Lane) -> int:
        return len(self._held[lane])

    def end(self, lane: Lane, count: int, outcome: Outcome = Outcome.SENT) -> None:
        for _ in range(min(count, self.now(lane))):
            sends, k = self._held[lane].popleft()
            sends.outcomes[k] = outcome
            sends.finish(k, k + 1)

    async def close(self) -> None:
        pass


class SlowLedger(MemoryLedger):
    """Its claims take a while, so that those of both lanes are under way at once."""

    async def claim(self, *args: Any) -> Any:
        for _ in range(random.randrange(5)):
            await asyncio.sleep(0)
        return await super().claim(*args)


class SlowLimit(MemoryRateLimit):
    """It takes a while to answer."""

    async def take(self, lane: Lane, wanted: int) -> Grant:
        for _ in range(random.randrange(5)):
            await asyncio.sleep(0)
        return await super().take(lane, wanted)


class Pipeline:
    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.ledger = MemoryLedger()
        self.provider = Held()
        self._first = dict.fromkeys(Lane, 0)

    async def publish(self, lane: Lane, count: int, size: int = 1) -> None:
        """Each lane has a run of its own, of its name."""
        first = self._first[lane]
        self._first[lane] += count
        await self.ledger.announce(lane, first, count)
        for k in range(first, first + count, size):
            messages = [Message(seq, "+358401234567", "text") for seq in range(k, k + size)]
            await self.broker.publish(Batch(run=lane, messages=messages), lane)

    async def settled(self, lane: Lane) -> int:
        return (await self.ledger.snapshot(lane)).settled

    async def both_settled(self, bulk: int, urgent: int) -> bool:
        return (await self.settled(BULK), await self.settled(URGENT)) == (bulk, urgent)

    async def begun(self, bulk: int, urgent: int) -> None:
        await eventually(lambda: (self.provider.now(BULK), self.provider.now(URGENT)) == (bulk, urgent))

    @asynccontextmanager
    async def sender(self, slots: int, provider: Held | None = None, **more: Any) -> AsyncIterator[Sender]:
        provider = provider or self.provider
        more = {"grace_s": 0, "timing": TIMING, **more}
        sender = Sender("s", self.broker, self.ledger, provider, slots=slots, **more)
        stop = asyncio.Event()
        running = asyncio.create_task(sender.run(stop))
        yield sender
        stop.set()
        await running


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.mark.parametrize(("slots", "all_slots"), [(1, 2), (10, 11), (40, 44)])
async def test_a_load_of_urgent_messages_alone_has_all_slots(
    pipeline: Pipeline, slots: int, all_slots: int
) -> None:
    """Sent urgent, a run takes no longer than as bulk; and never are there more in flight than slots."""
    await pipeline.publish(URGENT, 300)
    async with pipeline.sender(slots):
        for _ in range(3):
            await pipeline.begun(0, all_slots)
            pipeline.provider.end(URGENT, all_slots)
        await pipeline.begun(0, all_slots)
    assert pipeline.provider.most == all_slots


async def test_a_large_urgent_batch_has_all_slots(pipeline: Pipeline) -> None:
    """One batch is enough to fill them."""
    await pipeline.publish(URGENT, 100, size=100)
    async with pipeline.sender(20):
        await pipeline.begun(0, 22)


async def test_urgent_messages_have_their_slots_at_once_and_then_what_comes_free(pipeline: Pipeline) -> None:
    """Though bulk messages wait for the same slots, and had them before; they have them again afterwards."""
    await pipeline.publish(BULK, 100)
    async with pipeline.sender(20) as sender:
        await pipeline.begun(20, 0)
        await pipeline.publish(URGENT, 5)
        await pipeline.begun(20, 2)
        await eventually(lambda: sender.slots.waiting(URGENT) > 1 and sender.slots.waiting(BULK) > 0)
        for urgent in (3, 4, 5):
            pipeline.provider.end(BULK, 1)
            await pipeline.begun(22 - urgent, urgent)
        pipeline.provider.end(BULK, 1)
        await pipeline.begun(17, 5)
        pipeline.provider.end(URGENT, 5)
        await pipeline.begun(20, 0)
    assert (pipeline.provider.most_bulk, pipeline.provider.most) == (20, 22)


async def test_one_slot_and_one_for_urgent_messages(pipeline: Pipeline) -> None:
    """SENDER_CONCURRENCY=1: one bulk send, and room for an urgent one, which may be two."""
    await pipeline.publish(BULK, 10)
    async with pipeline.sender(1) as sender:
        await pipeline.begun(1, 0)
        await pipeline.publish(URGENT, 2)
        await pipeline.begun(1, 1)
        await eventually(lambda: sender.slots.waiting(URGENT) == 1)
        pipeline.provider.end(BULK, 1)
        await pipeline.begun(0, 2)
        pipeline.provider.end(URGENT, 1)
        await pipeline.begun(1, 1)


async def test_a_flood_of_urgent_messages_takes_over_all_slots(pipeline: Pipeline) -> None:
    """The messages that a sender holds of each lane follow. Bulk messages go on when the flood is over."""
    await pipeline.publish(BULK, 2000)
    async with pipeline.sender(20):
        await pipeline.begun(20, 0)
        await pipeline.publish(URGENT, 150)

        def taken_over() -> bool:
            pipeline.provider.end(BULK, 1)
            return pipeline.provider.now(URGENT) == 22

        await eventually(taken_over)

        async def over() -> bool:
            pipeline.provider.end(URGENT, 22)
            return await pipeline.settled(URGENT) == 150

        await eventually(over)
        await pipeline.begun(20, 0)
    assert (pipeline.provider.most_bulk, pipeline.provider.most) == (20, 22)


async def test_a_sender_busy_with_bulk_messages_leaves_urgent_ones_to_others(pipeline: Pipeline) -> None:
    """It held as many as it has slots while these were free, and now few more than it can begin."""
    idle = Held()
    async with pipeline.sender(20):
        await pipeline.publish(URGENT, 100)
        await pipeline.begun(0, 22)
        (urgent,) = [s for s in pipeline.broker.subscriptions if s.source is URGENT]
        assert urgent.prefetch >= 22

        async def over() -> bool:
            pipeline.provider.end(URGENT, 22)
            return await pipeline.settled(URGENT) == 100

        await eventually(over)
        await pipeline.publish(BULK, 20)
        await pipeline.begun(20, 0)
        await eventually(lambda: urgent.prefetch <= 7)
        await pipeline.publish(URGENT, 24)
        await pipeline.begun(20, 2)
        async with pipeline.sender(20, idle):
            await eventually(lambda: idle.now(URGENT) == 24 - urgent.prefetch)


@pytest.mark.parametrize("slots", [1, 7, 30])
@pytest.mark.parametrize("rate", [None, 50_000.0])
async def test_never_more_in_flight_than_slots(pipeline: Pipeline, slots: int, rate: float | None) -> None:
    """Both lanes claim at once, some fail and come again, and a connection is lost; in the end all slots are free."""
    pipeline.ledger = SlowLedger()
    limit = None if rate is None else SlowLimit(rate)
    policy = RetryPolicy(max_attempts=3, backoff_s=0.01)
    async with pipeline.sender(slots, policy=policy, limit=limit) as sender:
        for _ in range(10):
            await pipeline.publish(BULK, 20, size=random.choice((1, 5, 20)))
            await pipeline.publish(URGENT, 20, size=random.choice((1, 5, 20)))
        await eventually(
            lambda: pipeline.provider.now(BULK) + pipeline.provider.now(URGENT) == slots + max(1, slots // 10)
        )
        pipeline.broker.disconnect()

        async def done() -> bool:
            for _ in range(20):
                lane, outcome = random.choice(list(Lane)), random.choices(list(Outcome), (1, 8, 1))[0]
                pipeline.provider.end(lane, random.randint(1, slots), outcome)
                await asyncio.sleep(0)
            return await pipeline.both_settled(200, 200)

        await eventually(done)
        await eventually(lambda: sender.slots.free(URGENT) == sender.slots.total)
        assert [sender.slots.waiting(lane) for lane in Lane] == [0, 0]
        assert sender.slots.free(BULK) == slots
    assert pipeline.provider.most_bulk <= slots
    assert pipeline.provider.most <= slots + max(1, slots // 10)


async def test_a_stop_ends_urgent_sends_in_bulk_slots_and_hands_back_the_rest(pipeline: Pipeline) -> None:
    """Nothing of either lane is sending afterwards, and nothing begins while it waits for the last."""
    await pipeline.publish(BULK, 30)
    async with pipeline.sender(10, grace_s=30) as sender:
        await pipeline.begun(10, 0)
        await pipeline.publish(URGENT, 30)
        await pipeline.begun(10, 1)
        await eventually(lambda: sender.slots.waiting(URGENT) > 0)
        pipeline.provider.end(BULK, 1)
        await pipeline.begun(9, 2)

        async def end_when_stopped() -> None:
            await eventually(lambda: all(lane.stopping for lane in sender.lanes))
            while sender.slots.free(URGENT) < sender.slots.total:
                pipeline.provider.end(BULK, 1)
                pipeline.provider.end(URGENT, 1)
                await asyncio.sleep(0)

        ending = asyncio.create_task(end_when_stopped())
    await ending
    bulk, urgent = await pipeline.ledger.snapshot(BULK), await pipeline.ledger.snapshot(URGENT)
    assert (bulk.sent, bulk.sending, bulk.ambiguous) == (10, 0, 0)
    assert (urgent.sent, urgent.sending, urgent.ambiguous) == (2, 0, 0)
    depths = await pipeline.broker.depths()
    assert (depths["sms_queue"], depths["sms_queue.urgent"]) == (20, 28)


async def test_urgent_messages_of_a_lost_connection_keep_no_slot_from_bulk_ones(pipeline: Pipeline) -> None:
    """They no longer wait once the lane finds them lost, without a review."""
    await pipeline.publish(BULK, 10)
    async with pipeline.sender(10, timing=NO_REVIEW) as sender:
        await pipeline.begun(10, 0)
        await pipeline.publish(URGENT, 3)
        await eventually(lambda: sender.slots.waiting(URGENT) > 0)
        pipeline.broker.disconnect()

        async def done() -> bool:
            pipeline.provider.end(BULK, 1)
            pipeline.provider.end(URGENT, 1)
            return await pipeline.both_settled(10, 3)

        await eventually(done)
        await eventually(lambda: [sender.slots.waiting(lane) for lane in Lane] == [0, 0])


async def test_urgent_messages_that_are_passed_on_keep_no_slot_from_bulk_ones(pipeline: Pipeline) -> None:
    """Messages that waited too long for a slot go to the end of the queue, and no longer wait here."""
    async with pipeline.sender(10, timing=Timing(review_s=0.005, overdue_s=0.1)) as sender:
        await pipeline.publish(BULK, 10)
        await pipeline.begun(10, 0)
        await pipeline.publish(URGENT, 3)
        await eventually(lambda: sender.slots.waiting(URGENT) > 0)
        urgent = sender.lanes[1].unacked
        first = set(urgent.waiting)
        await eventually(lambda: not first & set(urgent.waiting))

        async def done() -> bool:
            pipeline.provider.end(BULK, 1)
            pipeline.provider.end(URGENT, 1)
            return await pipeline.both_settled(10, 3)

        await eventually(done)
        assert [sender.slots.waiting(lane) for lane in Lane] == [0, 0]
