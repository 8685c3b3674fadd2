"""sender/unacked.py and sender/copies.py: unacked batches, messages that wait for a slot, and copies."""

import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.errors import BadBody
from common.messages import MAX_BATCH_SPAN, MAX_BODY_BYTES, Batch, Lane, Message, encode_batch
from sender.copies import Copy, Kind
from sender.ended import Pick
from sender.providers.bulk import Sends
from sender.slots import Slots
from sender.timing import Limits
from sender.unacked import Unacked, UnackedBatch

NUMBER = "+358401234567"
BATCH = Batch(
    run="a-run", attempt=2, track=True, messages=[Message(10 + k, NUMBER, f"text {k}") for k in range(5)]
)


class Hand:
    """The unacked batches of a bulk lane with ten slots, and the broker that they came from."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.slots = Slots(10)
        self.unacked = Unacked(Lane.BULK, self.slots, limits=limits or Limits())
        self.broker = MemoryBroker()

    async def takes(self, *batches: Batch | bytes) -> list[UnackedBatch]:
        for batch in batches:
            if isinstance(batch, bytes):
                self.broker.publish_raw(batch, Lane.BULK)
            else:
                await self.broker.publish(batch, Lane.BULK)
        subscription = await self.broker.subscribe(Lane.BULK, 100)
        return [self.unacked.add(delivery) for delivery in await subscription.take()]

    @property
    def waiting(self) -> int:
        return self.slots.waiting(Lane.BULK)

    @property
    def in_broker(self) -> int:
        return sum(subscription.unacked for subscription in self.broker.subscriptions)


def batch_of(first: int, size: int, run: str = "a-run") -> Batch:
    return Batch(
        run=run, messages=[Message(seq, NUMBER, f"text {seq}") for seq in range(first, first + size)]
    )


def copies(picks: list[Pick], attempt: int, most: int = 512) -> list[Batch]:
    batch = picks[0].batch
    copy = Copy(Kind(batch.group, attempt, Lane.BULK), picks)
    return [one for part in copy.parts(most) for one, _ in part.batches()]


async def test_a_batch_in_hand_knows_what_it_needs() -> None:
    """Run, attempt, tracking and seqs, and all of it still to be begun and settled."""
    (batch,) = await Hand().takes(BATCH)
    assert (batch.run, batch.attempt, batch.group.track) == ("a-run", 2, True)
    assert batch.seqs.tolist() == [10, 11, 12, 13, 14]
    assert (batch.begun, batch.waiting, batch.unsettled) == (0, 5, 5)
    assert batch.bad == frozenset()


async def test_bad_numbers_are_known_by_their_seqs() -> None:
    """They will be failed without a send; the others go on."""
    messages = [Message(7, NUMBER, ""), Message(3, "12", ""), Message(5, f"{NUMBER}\n", "")]
    (batch,) = await Hand().takes(Batch(run="a-run", messages=messages))
    assert batch.bad == {3, 5}


async def test_a_body_that_is_no_batch_is_unacked_and_waits_for_no_slot() -> None:
    """It counts against the prefetch until it is moved to the rejected queue."""
    hand = Hand()
    with pytest.raises(BadBody):
        await hand.takes(b"nonsense")
    assert (hand.unacked.deliveries, hand.waiting) == (1, 0)
    assert hand.unacked.bytes > len(b"nonsense")


async def test_the_last_message_acks_the_batch() -> None:
    """With the last message, not before; a count of none changes nothing, even after that."""
    hand = Hand()
    (batch,) = await hand.takes(BATCH)
    hand.unacked.pick(10)
    batch.count_off(2)
    batch.count_off(2)
    batch.count_off(0)
    assert hand.in_broker == 1
    batch.count_off(1)
    batch.count_off(0)
    assert (hand.in_broker, hand.unacked.deliveries, hand.unacked.bytes) == (0, 0, 0)


async def test_messages_are_picked_first_come_first_served() -> None:
    """As many as there is room for, in parts of a batch where need be, by what is claimed together."""
    hand = Hand()
    one, two, other = await hand.takes(batch_of(0, 4), batch_of(4, 4), batch_of(0, 4, run="another"))
    (pieces,) = hand.unacked.pick(6).values()
    assert pieces == [(one, 0, 4), (two, 0, 2)]
    assert (hand.waiting, hand.slots.in_use(Lane.BULK)) == (6, 6)
    groups = hand.unacked.pick(10)
    assert groups == {two.group: [(two, 2, 4)], other.group: [(other, 0, 4)]}
    assert (hand.waiting, hand.slots.in_use(Lane.BULK)) == (0, 12)


async def test_the_rest_of_a_batch_can_be_taken() -> None:
    """To be published again: those messages wait for no slot any more."""
    hand = Hand()
    one, two = await hand.takes(batch_of(0, 4), batch_of(4, 4))
    hand.unacked.pick(1)
    assert hand.unacked.take_rest(one) == [1, 2, 3]
    assert hand.waiting == 4
    assert list(hand.unacked.take_all()) == [(two, [4, 5, 6, 7])]
    assert (hand.waiting, hand.unacked.deliveries) == (0, 2)


async def test_stale_deliveries_wait_for_no_slot() -> None:
    """Those of a lost connection are forgotten as soon as the lane looks for messages, and count nowhere."""
    hand = Hand()
    await hand.takes(batch_of(0, 4), batch_of(4, 4))
    hand.unacked.pick(2)
    hand.broker.disconnect()
    assert hand.unacked.pick(5) == {}
    assert (hand.waiting, hand.unacked.deliveries, hand.unacked.bytes) == (0, 0, 0)


async def test_everything_in_hand_is_handed_back() -> None:
    """At the end of a sender; the broker delivers it again."""
    hand = Hand()
    await hand.takes(batch_of(0, 4), batch_of(4, 4))
    hand.unacked.release_all()
    assert (hand.in_broker, hand.unacked.deliveries) == (0, 0)
    assert len(hand.broker.queues[Lane.BULK].bodies) == 2


@pytest.mark.parametrize("seqs", [{10}, {14, 11}, {10, 11, 12, 13, 14}])
async def test_a_copy_has_the_messages_asked_for(seqs: set[int]) -> None:
    """Number and text of just these, in another attempt; run and tracking as before."""
    (batch,) = await Hand().takes(BATCH)
    messages = [m for m in BATCH.messages if m.seq in seqs]
    picks = [Pick(seq, batch) for seq in seqs]
    assert copies(picks, 3) == [Batch(run="a-run", attempt=3, track=True, messages=messages)]


async def test_messages_of_several_batches_share_a_copy() -> None:
    """In the order of their seqs, in copies no larger than the limit."""
    one, two = await Hand().takes(batch_of(0, 3), batch_of(3, 3))
    picks = [Pick(seq, batch) for batch in (two, one) for seq in batch.seqs.tolist()]
    assert [copy.seqs().tolist() for copy in copies(picks, 2, most=4)] == [[0, 1, 2, 3], [4, 5]]


async def test_a_message_that_came_twice_is_not_twice_in_a_copy() -> None:
    """A batch in which a seq stands twice would be rejected."""
    one, two = await Hand().takes(batch_of(0, 3), batch_of(0, 3))
    picks = [Pick(seq, batch) for batch in (one, two) for seq in batch.seqs.tolist()]
    found = copies(picks, 2)
    assert sorted(seq for copy in found for seq in copy.seqs().tolist()) == [0, 0, 1, 1, 2, 2]
    assert all(np.unique(copy.seqs()).size == copy.seqs().size for copy in found)


async def test_a_copy_spans_no_more_seqs_than_a_batch_may() -> None:
    """Messages of far apart batches go in copies of their own."""
    one, two = await Hand().takes(batch_of(0, 2), batch_of(MAX_BATCH_SPAN, 2))
    picks = [Pick(seq, batch) for batch in (one, two) for seq in batch.seqs.tolist()]
    assert [copy.seqs().tolist() for copy in copies(picks, 2)] == [
        [0, 1],
        [MAX_BATCH_SPAN, MAX_BATCH_SPAN + 1],
    ]


async def test_few_batches_stay_decoded() -> None:
    """So that a second copy of one needs no second decoding, and a long queue does not fill the memory with texts."""
    hand = Hand(Limits(decoded_messages=5))
    one, two = await hand.takes(batch_of(0, 3), batch_of(3, 3))
    for batch in (one, two):
        assert list(hand.unacked.messages_of(batch)) == batch.seqs.tolist()
    assert [len(one.messages), len(two.messages)] == [3, 0]
    hand.unacked.forget(one.delivery)
    hand.unacked.messages_of(two)
    assert len(two.messages) == 3


@pytest.mark.parametrize("to", ["+999123456789", "1" * 300_000])
async def test_copies_fit_a_body_whatever_came(to: str) -> None:
    """A copy of a body of exactly 1 MiB has an attempt besides, so it is two. Too long a number is truncated."""
    messages = [Message(0, to, "")]
    while len(body := encode_batch(Batch(run="large", messages=messages))) < MAX_BODY_BYTES - 1540:
        messages.append(Message(len(messages), "+999123456789", "x" * 1500))
    missing = MAX_BODY_BYTES - len(body)
    for k in range(1, 1 + -(-missing // 100)):
        messages[k] = Message(k, "+999123456789", "x" * (1500 + min(100, missing - 100 * (k - 1))))
    body = encode_batch(Batch(run="large", messages=messages))
    assert len(body) == MAX_BODY_BYTES
    (batch,) = await Hand().takes(body)
    found = copies([Pick(seq, batch) for seq in batch.seqs.tolist()], 2, most=10_000)
    assert all(len(encode_batch(copy)) <= MAX_BODY_BYTES for copy in found)
    assert [(m.seq, m.text) for copy in found for m in copy.messages] == [(m.seq, m.text) for m in messages]


def _sends() -> Sends:
    return Sends(
        run="a-run",
        attempt=1,
        seqs=np.array([5, 6, 7]),
        owners=np.array([0, 0, 1], np.int32),
        batches=[],
        on_finish=lambda *_: None,
        age_s=3.0,
        messages=[Message(seq, NUMBER, "") for seq in (5, 6, 7)],
        track=True,
    )


def test_reordering_keeps_seqs_owners_and_messages_together() -> None:
    """A provider sorts sends by when they end."""
    sends = _sends()
    sends.reorder(np.array([2, 0, 1]))
    assert (sends.seqs.tolist(), sends.owners.tolist()) == ([7, 5, 6], [1, 0, 0])
    assert [message.seq for message in sends.messages or []] == [7, 5, 6]


def test_a_part_of_sends_has_all_that_is_known_of_them() -> None:
    """Results, age, messages and tracking, and that they are kept."""
    sends = _sends()
    sends.outcomes[:], sends.times_us[:] = [2, 0, 3], [10, 20, 30]
    sends.retry_after_s, sends.ambiguous = np.array([0, 9, 0], np.float32), np.array([False, True, False])
    sends.kept = True
    part = sends.part(np.array([2, 1]))
    assert (part.seqs.tolist(), part.owners.tolist()) == ([7, 6], [1, 0])
    assert (part.outcomes.tolist(), part.times_us.tolist()) == ([3, 0], [30, 20])
    assert part.retry_after_s is not None
    assert part.ambiguous is not None
    assert (part.retry_after_s.tolist(), part.ambiguous.tolist()) == ([0, 9], [False, True])
    assert (part.age_s, part.track, part.kept) == (3.0, True, True)
    assert [message.seq for message in part.messages or []] == [7, 6]


async def test_a_batch_that_was_released_is_not_acked() -> None:
    """At the end of a sender, the confirm of a copy may come just after its batch was handed back."""
    hand = Hand()
    (batch,) = await hand.takes(BATCH)
    hand.unacked.release_all()
    batch.count_off(batch.seqs.size)
    assert len(hand.broker.queues[Lane.BULK].bodies) == 1
