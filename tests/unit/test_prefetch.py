"""sender/prefetch.py: prefetch rises at once, and falls for want of slots only when they stay away."""

import pytest

from common.broker.port import Delivery
from common.messages import Lane
from sender.prefetch import PERIOD_TURNS, Prefetch
from sender.slots import Slots

BULK, URGENT = Lane.BULK, Lane.URGENT
SLOTS = 100
# The urgent lane may have all 110, in steps of 28; one delivery more than it has slots is held.
ALL, ONE_STEP = 111, 29


class Subscribed:
    """Notes what prefetch was set to."""

    def __init__(self) -> None:
        self.set: list[int] = []

    async def take(self) -> list[Delivery]:
        raise NotImplementedError

    def set_prefetch(self, prefetch: int) -> None:
        self.set.append(prefetch)

    async def close(self) -> None:
        raise NotImplementedError


class Urgent:
    """The urgent lane of a sender whose bulk lane takes slots and gives them back; it saw batches of one message."""

    def __init__(self) -> None:
        self.slots = Slots(SLOTS)
        self.subscribed = Subscribed()
        self.prefetch = Prefetch(self.subscribed, self.slots, URGENT)
        self.prefetch.saw(1)
        self.bulk = 0

    def bulk_has(self, slots: int) -> None:
        if slots > self.bulk:
            self.slots.came(BULK, slots - self.bulk)
            self.slots.take(BULK, slots - self.bulk)
        else:
            self.slots.give(BULK, self.bulk - slots)
        self.bulk = slots

    def review(self, times: int = 1) -> None:
        for _ in range(times):
            self.prefetch.review(held=0, waiting=0, idle=None, copying=[])


@pytest.fixture
def urgent() -> Urgent:
    lane = Urgent()
    assert lane.subscribed.set == [ALL]
    return lane


def test_slots_that_come_and_go_make_no_new_consumer(urgent: Urgent) -> None:
    """Bulk messages by the burst, with pauses: each period has a moment with slots for urgent ones."""
    for _ in range(5 * PERIOD_TURNS):
        urgent.bulk_has(SLOTS)
        urgent.review()
        urgent.bulk_has(0)
        urgent.review()
    assert urgent.subscribed.set == [ALL]


def test_a_moment_between_two_reviews_counts(urgent: Urgent) -> None:
    """The lane took slots then."""
    for _ in range(5 * PERIOD_TURNS):
        urgent.bulk_has(0)
        urgent.prefetch.follow()
        urgent.bulk_has(SLOTS)
        urgent.review()
    assert urgent.subscribed.set == [ALL]


def test_it_falls_when_the_slots_stay_away_for_a_whole_period(urgent: Urgent) -> None:
    """Not before, whenever in a period they went; and once."""
    urgent.review()
    urgent.bulk_has(SLOTS)
    urgent.review(2 * PERIOD_TURNS - 2)
    assert urgent.subscribed.set == [ALL]
    urgent.review()
    assert urgent.subscribed.set == [ALL, ONE_STEP]
    urgent.review(3 * PERIOD_TURNS)
    assert urgent.subscribed.set == [ALL, ONE_STEP]


def test_it_falls_to_the_most_that_was_there_in_the_period(urgent: Urgent) -> None:
    """50 slots once, of 110: two steps of 28, and no more than was there at the period's end."""
    urgent.bulk_has(SLOTS)
    urgent.review(PERIOD_TURNS - 1)
    urgent.bulk_has(60)
    urgent.review()
    assert urgent.subscribed.set == [ALL, 57]


def test_it_rises_at_once(urgent: Urgent) -> None:
    """What comes free must find messages that wait for it: when slots are taken, and at each review."""
    urgent.bulk_has(SLOTS)
    urgent.review(PERIOD_TURNS)
    urgent.bulk_has(60)
    urgent.prefetch.follow()
    assert urgent.subscribed.set == [ALL, ONE_STEP, 57]
    urgent.bulk_has(0)
    urgent.review()
    assert urgent.subscribed.set == [ALL, ONE_STEP, 57, ALL]
