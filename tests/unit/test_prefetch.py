"""sender/prefetch.py: as many deliveries as bring the messages that the slots need, for batches of any size."""

import pytest

from common.broker.memory import MemoryBroker
from common.broker.port import Delivery
from common.messages import Batch, Lane, Message
from sender.prefetch import Prefetch
from sender.slots import Slots
from sender.timing import Limits, Timing
from sender.unacked import Unacked, UnackedBatch

SLOTS = 64
# Four messages are held ahead of 64 slots, and prefetch falls after four reviews.
AHEAD = 4
REVIEWS = 4
TIMING = Timing(review_s=0.25, calm_s=0.25 * REVIEWS)
LIMITS = Limits(ahead=SLOTS // AHEAD, smallest_raise=0)


class Subscribed:
    """Notes what the prefetch was set to."""

    def __init__(self) -> None:
        self.set: list[int] = []

    async def take(self) -> list[Delivery]:
        raise NotImplementedError

    def set_prefetch(self, prefetch: int) -> None:
        self.set.append(prefetch)

    async def close(self) -> None:
        raise NotImplementedError


class HeldLane:
    """A lane that is given batches of chosen sizes, and begins and ends their sends when the test asks for it."""

    def __init__(self, limits: Limits = LIMITS, lane: Lane = Lane.BULK) -> None:
        self.slots = Slots(SLOTS)
        self.lane = lane
        self.unacked = Unacked(lane, self.slots, limits=limits)
        self.subscribed = Subscribed()
        self.prefetch = Prefetch(self.subscribed, self.unacked, self.slots, timing=TIMING, limits=limits)
        self._broker = MemoryBroker()
        self._next = 0

    async def receives(self, *sizes: int, text: str = "") -> list[UnackedBatch]:
        """Batches of these sizes arrive together."""
        if not sizes:
            return []
        subscription = await self._broker.subscribe(self.lane, len(sizes))
        for size in sizes:
            seqs = range(self._next, self._next + size)
            self._next += size
            messages = [Message(seq, "+358401234567", text) for seq in seqs]
            await self._broker.publish(Batch(run="a-run", messages=messages), self.lane)
        batches = [self.unacked.add(delivery) for delivery in await subscription.take()]
        self.prefetch.received(list(sizes), rejected=0)
        return batches

    async def fills(self, size: int) -> list[UnackedBatch]:
        """Batches of this size arrive until prefetch is used up, and as many messages begin as there are slots."""
        batches = await self.receives(size)
        while self.unacked.deliveries < self.now:
            batches += await self.receives(*[size] * (self.now - self.unacked.deliveries))
        self.begins()
        return batches

    def begins(self) -> None:
        """As many messages begin as there are free slots."""
        self.unacked.pick(self.slots.free(self.lane))
        self.prefetch.follow()

    def ends(self, messages: int, *settled: UnackedBatch) -> None:
        """Sends end; some batches are wholly settled by it."""
        self.slots.release(self.lane, messages)
        for batch in settled:
            self.unacked.forget(batch.delivery)
        self.prefetch.follow()

    def finishes(self, batches: list[UnackedBatch]) -> None:
        """All messages are sent and settled."""
        while in_use := self.slots.in_use(self.lane):
            self.slots.release(self.lane, in_use)
            self.unacked.pick(self.slots.free(self.lane))
        self.ends(0, *batches)

    def loses_its_connection(self) -> None:
        """No delivery of it can be acked any more; another connection is not there yet."""
        self._broker.disconnect()

    def review(self, times: int) -> None:
        for _ in range(times):
            self.prefetch.review()

    @property
    def now(self) -> int:
        return self.subscribed.set[-1]


@pytest.mark.parametrize("size", [1, 4, 16])
async def test_the_first_batch_tells_how_many_fill_the_slots(size: int) -> None:
    """With a few messages ahead, for the slots that come free first."""
    lane = HeldLane()
    await lane.receives(size)
    assert lane.now == -(-(SLOTS + AHEAD) // size)


async def test_batches_that_are_nearly_done_let_others_in() -> None:
    """Each holds its place for its last message, while the slots of the others are free again."""
    lane = HeldLane()
    await lane.fills(16)
    assert lane.now == 5
    lane.ends(60)  # 15 of each
    # 5 batches are unacked, 16 messages of the fifth took slots that came free; 48 + 4 more fill the rest.
    assert lane.now == 5 + (60 - 16 + AHEAD) // 16


async def test_more_is_asked_for_only_once_all_is_there() -> None:
    """While the broker has not delivered what prefetch allows, more may be on the way, or nothing is left."""
    lane = HeldLane()
    await lane.receives(16)
    assert lane.subscribed.set == [5]
    lane.begins()
    lane.ends(15)
    assert lane.subscribed.set == [5]


async def test_small_batches_need_more_deliveries() -> None:
    """After batches of 16, those of single messages: their mean size decides."""
    lane = HeldLane()
    large = await lane.fills(16)
    for _ in range(12):
        lane.ends(16 if lane.slots.in_use(Lane.BULK) >= 16 else lane.slots.in_use(Lane.BULK), *large[:1])
        large = large[1:]
        await lane.receives(*[1] * max(0, lane.now - lane.unacked.deliveries))
        lane.begins()
    assert lane.now > 2 * 5


async def test_too_many_messages_in_hand_lower_it_at_once() -> None:
    """After single messages, batches of 16 would bring far more than the slots need."""
    lane = HeldLane()
    await lane.fills(1)
    assert lane.now == SLOTS + AHEAD
    await lane.receives(*[16] * 8)
    assert lane.now < lane.unacked.deliveries


async def test_it_falls_to_the_most_that_was_needed_for_a_while() -> None:
    """And not before that while is over: on RabbitMQ each fall makes a new consumer."""
    lane = HeldLane()
    batches = await lane.fills(16)
    lane.ends(60)
    high = lane.now
    assert high > 5
    lane.begins()
    lane.finishes(batches)
    lane.review(REVIEWS)  # during this period as many were needed
    assert lane.now == high
    lane.review(REVIEWS - 1)
    assert lane.now == high
    lane.review(1)
    assert lane.now == 5


async def test_bursts_with_pauses_make_no_new_consumer() -> None:
    """Each period has a moment in which all that prefetch allows is needed."""
    lane = HeldLane()
    batches = await lane.fills(16)
    for _ in range(5):
        lane.finishes(batches)
        lane.review(REVIEWS)
        batches = await lane.receives(*[16] * 5)
        lane.begins()
    assert lane.subscribed.set == [5]


async def test_it_is_bounded_by_bytes() -> None:
    """Batches that stay for long stop it once they take their share of memory; the slots always have enough."""
    size = 16
    lane = HeldLane(
        Limits(ahead=SLOTS // AHEAD, smallest_raise=0, unacked_bytes=7 * 5000, delivery_bytes=4000)
    )
    await lane.fills(size)
    for _ in range(20):
        lane.ends(lane.slots.in_use(Lane.BULK))
        await lane.receives(*[size] * (lane.now - lane.unacked.deliveries))
        lane.begins()
    assert 5 <= lane.now <= 8


async def test_after_small_batches_at_rest_it_counts_on_large_ones_again() -> None:
    """Else the first large ones would come far too many at once."""
    lane = HeldLane()
    lane.finishes(await lane.fills(16))
    small = await lane.receives(*[1] * 40)
    lane.begins()
    lane.finishes(small)
    lane.review(3 * REVIEWS)
    assert lane.now < 10


async def test_bodies_that_are_rejected_first_hold_nothing_up() -> None:
    """Some deliveries are asked for at once, though their size is not known yet."""
    lane = HeldLane()
    lane.prefetch.received([], rejected=1)
    assert lane.subscribed.set == [LIMITS.prefetch_past_rejects]
    await lane.receives(16)
    lane.review(2 * REVIEWS)
    assert lane.now == 5


async def test_slots_that_the_other_lane_has_are_not_asked_for() -> None:
    """With all bulk slots in use, urgent ones have the tenth that is there besides, and what is held ahead."""
    lane = HeldLane(lane=Lane.URGENT)
    lane.slots.enqueue(Lane.BULK, SLOTS)
    lane.slots.acquire(Lane.BULK, SLOTS)
    await lane.receives(1)
    kept_for_urgent = lane.slots.total - SLOTS
    assert lane.now <= kept_for_urgent + AHEAD + 1
    await lane.receives(*[1] * (lane.now - 1))
    lane.begins()
    lane.slots.release(Lane.BULK, SLOTS)
    lane.prefetch.follow()
    assert lane.now >= lane.slots.total, "what comes free must find messages that wait for it"


async def test_deliveries_of_a_lost_connection_need_no_prefetch() -> None:
    """Their sends end while there is no connection. The next one must not bring twice what the slots need."""
    lane = HeldLane()
    await lane.fills(16)
    before = lane.now
    lane.loses_its_connection()
    lane.ends(SLOTS)
    lane.review(REVIEWS)
    assert lane.now <= before
    assert lane.unacked.deliveries == 0
