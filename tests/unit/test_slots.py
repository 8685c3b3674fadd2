"""sender/slots.py: which lane may begin how many sends."""

import asyncio

import pytest

from common.messages import Lane
from sender.slots import Slots

BULK, URGENT = Lane.BULK, Lane.URGENT


def having(slots: Slots, lane: Lane, count: int) -> None:
    slots.enqueue(lane, count)
    slots.acquire(lane, count)


@pytest.mark.parametrize(("slots", "total"), [(1, 2), (9, 10), (10, 11), (100, 110)])
def test_a_tenth_and_at_least_one_comes_on_top(slots: int, total: int) -> None:
    """Bulk messages have the slots of the settings, urgent ones all."""
    pool = Slots(slots)
    assert (pool.most(BULK), pool.most(URGENT), pool.total) == (slots, total, total)
    assert (pool.free(BULK), pool.free(URGENT)) == (slots, total)


def test_bulk_messages_leave_those_kept_for_urgent_ones() -> None:
    """With all of their own in use there is room for urgent ones only."""
    pool = Slots(20)
    having(pool, BULK, 20)
    assert (pool.free(BULK), pool.free(URGENT), pool.in_use(BULK)) == (0, 2, 20)


def test_urgent_messages_may_have_all() -> None:
    """Then bulk messages have none."""
    pool = Slots(20)
    having(pool, URGENT, 22)
    assert (pool.free(BULK), pool.free(URGENT)) == (0, 0)


def test_a_tenth_in_urgent_use_takes_nothing_from_bulk() -> None:
    """Only what urgent messages have beyond it counts."""
    pool = Slots(20)
    having(pool, URGENT, 2)
    assert pool.free(BULK) == 20
    having(pool, URGENT, 5)
    assert pool.free(BULK) == 15


def test_what_comes_free_goes_to_urgent_messages_that_wait() -> None:
    """Bulk ones have what those leave."""
    pool = Slots(20)
    having(pool, BULK, 20)
    having(pool, URGENT, 2)
    pool.enqueue(URGENT, 3)
    pool.release(BULK, 2)
    assert (pool.free(BULK), pool.free(URGENT)) == (0, 2)
    pool.release(BULK, 2)
    assert (pool.free(BULK), pool.free(URGENT)) == (1, 4)
    pool.acquire(URGENT, 3)
    assert (pool.free(BULK), pool.free(URGENT)) == (1, 1)


def test_free_is_never_below_none() -> None:
    """However many wait."""
    pool = Slots(1)
    pool.enqueue(URGENT, 100)
    assert (pool.free(BULK), pool.free(URGENT)) == (0, 2)


def test_who_may_have_more_room_is_woken() -> None:
    """The lane that releases slots, and the other lane if it waits."""
    pool = Slots(1)

    def woken() -> set[Lane]:
        lanes = {lane for lane, event in pool.changed.items() if event.is_set()}
        for event in pool.changed.values():
            event.clear()
        return lanes

    having(pool, BULK, 1)
    assert woken() == {BULK}
    pool.release(BULK, 1)
    assert woken() == {BULK}
    pool.enqueue(URGENT, 3)
    having(pool, BULK, 1)
    assert woken() == {BULK, URGENT}
    pool.release(BULK, 1)
    assert woken() == {BULK, URGENT}
    pool.dequeue(URGENT, 1)
    assert woken() == set()
    pool.enqueue(BULK, 1)
    woken()
    pool.dequeue(URGENT, 2)
    assert woken() == {BULK}, "what urgent messages no longer wait for is theirs"
    assert pool.waiting(URGENT) == 0


async def test_a_lane_is_known_to_be_unused_once_its_last_slot_is_released() -> None:
    """A lane that stops waits for this."""
    pool = Slots(2)
    await pool.unused(BULK)
    having(pool, BULK, 2)
    unused = asyncio.ensure_future(pool.unused(BULK))
    pool.release(BULK, 1)
    await asyncio.sleep(0)
    assert not unused.done()
    pool.release(BULK, 1)
    await unused
