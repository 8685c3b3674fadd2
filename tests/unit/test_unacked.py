"""sender/unacked.py and the sends of the provider port: unacked batches, and sends that began together."""

import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.errors import BadBody
from common.messages import MAX_BODY_BYTES, Batch, Lane, Message, encode_batch
from sender.providers.bulk import Sends
from sender.unacked import UnackedBatch, hold

NUMBER = "+358401234567"
BATCH = Batch(
    run="a-run", attempt=2, track=True, messages=[Message(10 + k, NUMBER, f"text {k}") for k in range(5)]
)


async def held(batch: Batch = BATCH) -> tuple[UnackedBatch, list[UnackedBatch]]:
    """A batch as delivered, and the list of those that were reported as settled."""
    settled: list[UnackedBatch] = []
    broker = MemoryBroker()
    await broker.publish(batch, Lane.BULK)
    (delivery,) = await (await broker.subscribe(Lane.BULK, 1)).take()
    return hold(delivery, settled.append, 0.0), settled


async def test_a_held_batch_knows_what_it_needs() -> None:
    """Run, attempt, tracking and seqs, and all of it still to be begun and settled."""
    batch, _ = await held()
    assert (batch.run, batch.attempt, batch.track) == ("a-run", 2, True)
    assert batch.seqs.tolist() == [10, 11, 12, 13, 14]
    assert (batch.begun, batch.waiting, batch.unsettled) == (0, 5, 5)
    assert batch.bad == frozenset()


async def test_bad_numbers_are_known_by_their_seqs() -> None:
    """They will be failed without a send; the others go on."""
    messages = [Message(7, NUMBER, ""), Message(3, "12", ""), Message(5, f"{NUMBER}\n", "")]
    batch, _ = await held(Batch(run="a-run", messages=messages))
    assert batch.bad == {3, 5}


async def test_a_body_that_is_no_batch_is_not_held() -> None:
    """BadBody goes up to whoever rejects it."""
    broker = MemoryBroker()
    broker.publish_raw(b"nonsense", Lane.BULK)
    (delivery,) = await (await broker.subscribe(Lane.BULK, 1)).take()
    with pytest.raises(BadBody):
        hold(delivery, lambda _: None, 0.0)


async def test_the_last_message_settles_the_batch() -> None:
    """It is reported with the last message, not before."""
    batch, settled = await held()
    batch.count_off(2)
    batch.count_off(2)
    assert settled == []
    batch.count_off(1)
    assert settled == [batch]


async def test_counting_off_nothing_never_settles_again() -> None:
    """A flush in which none of a batch's messages end must not ack it, let alone twice."""
    batch, settled = await held()
    batch.count_off(0)
    assert settled == []
    batch.count_off(5)
    batch.count_off(0)
    assert settled == [batch]


@pytest.mark.parametrize("seqs", [{10}, {14, 11}, {10, 11, 12, 13, 14}])
async def test_a_copy_has_the_messages_asked_for(seqs: set[int]) -> None:
    """Number and text of just these, in their order, in another attempt; run and tracking as before."""
    batch, _ = await held()
    messages = [m for m in BATCH.messages if m.seq in seqs]
    assert batch.copies_of(seqs, 3) == [Batch(run="a-run", attempt=3, track=True, messages=messages)]


@pytest.mark.parametrize("to", ["+999123456789", "1" * 300_000])
async def test_copies_fit_a_body_whatever_came(to: str) -> None:
    """A copy has more to say than a body of just 1 MiB had room for: it is two. Too long a number is cut short."""
    messages = [Message(0, to, "")]
    while len(body := encode_batch(Batch(run="large", messages=messages))) < MAX_BODY_BYTES - 1540:
        messages.append(Message(len(messages), "+999123456789", "x" * 1500))
    missing = MAX_BODY_BYTES - len(body)
    for k in range(1, 1 + -(-missing // 100)):
        messages[k] = Message(k, "+999123456789", "x" * (1500 + min(100, missing - 100 * (k - 1))))
    assert len(encode_batch(Batch(run="large", messages=messages))) == MAX_BODY_BYTES
    broker = MemoryBroker()
    broker.publish_raw(encode_batch(Batch(run="large", messages=messages)), Lane.BULK)
    (first,) = await (await broker.subscribe(Lane.BULK, 1)).take()
    first.release()
    (again,) = await (await broker.subscribe(Lane.BULK, 1)).take()
    held = hold(again, lambda _: None, 0.0)
    copies = held.copies_of(set(held.seqs.tolist()), 1)
    assert all(len(encode_batch(copy)) <= MAX_BODY_BYTES for copy in copies)
    assert [(m.seq, m.text) for copy in copies for m in copy.messages] == [(m.seq, m.text) for m in messages]


def test_reordering_keeps_seqs_and_owners_together() -> None:
    """A provider sorts sends by when they end."""
    sends = Sends("a-run", 1, np.array([5, 6, 7]), np.array([0, 0, 1], np.int32), [], lambda *_: None)
    sends.reorder(np.array([2, 0, 1]))
    assert (sends.seqs.tolist(), sends.owners.tolist()) == ([7, 5, 6], [1, 0, 0])
