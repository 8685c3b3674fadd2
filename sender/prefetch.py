"""How many deliveries a lane may hold: prefetch counts AMQP messages, so it follows the size of the batches seen."""

import math
from collections.abc import Iterable
from itertools import accumulate

from common.broker.port import Delivery, Subscription
from common.messages import Lane
from common.rate.port import RateLimit
from sender.slots import Slots

# The largest batch seen lately is the largest of the last whole period, or of this one. And prefetch falls for want of
# slots only after a whole period with fewer of them. In reviews.
PERIOD_TURNS = 12
# How much a sender holds ahead of a rate limit, in seconds of it.
AHEAD_OF_LIMIT_S = 2.0
# What may be held, beyond the prefetch that keeps the slots busy, for nothing but the confirms of copies; and what a
# delivery takes beside its body, with its copy and all that waits for the confirm.
COPYING_BYTES = 128 * 1024 * 1024
DELIVERY_BYTES = 4096
# Deliveries before the first has come, and at once until the first good batch tells how large they are.
FIRST_PREFETCH = 1
POISON_PREFETCH = 16
# What prefetch may grow to, as a multiple of what the slots alone would need: batches whose last messages take
# long hold their place while most of their slots are free again.
LARGEST_STRETCH = 4
# Slots change hands between the lanes. Prefetch follows those that a lane can have in so many steps, one ahead: what
# comes free must find messages that wait for it.
STEPS = 4


class Prefetch:
    """Keeps a subscription's prefetch in line with the batches seen and the slots that stand idle."""

    def __init__(
        self, subscription: Subscription, slots: Slots, lane: Lane, limit: RateLimit | None = None
    ) -> None:
        self._subscription = subscription
        self._slots = slots
        self._lane = lane
        self._limit = limit
        self._most = slots.most(lane)
        self._step = math.ceil(self._most / STEPS)
        self._within_reach = 0
        self._reach_of_period = 0
        self._deliveries = FIRST_PREFETCH
        self._largest_batch = 0
        self._largest_of_period = 0
        self._turns = 0

    def saw(self, largest: int) -> None:
        """Deliveries came; the largest batch of them has so many messages, 0 if none was a batch."""
        self._largest_of_period = max(self._largest_of_period, largest)
        self._largest_batch = max(self._largest_batch, self._largest_of_period)
        if self._deliveries == FIRST_PREFETCH:
            self._within_reach = self._reach()
            self._set(self._base() if self._largest_batch else POISON_PREFETCH)

    def follow(self) -> None:
        """Slots were taken, from the other lane maybe: asks for more at once if the lane can have more by now."""
        if not self._largest_batch:
            return
        reach = self._reach()
        self._reach_of_period = max(self._reach_of_period, reach)
        if reach > self._within_reach:
            self._within_reach = reach
            if (base := self._base()) > self._deliveries:
                self._set(base)

    def review(self, held: int, waiting: int, idle: int | None, copying: Iterable[Delivery]) -> None:
        """To be called in equal steps of time: the deliveries held and the messages that wait in them, the slots that
        are free, if some stood idle since the last time (else None), and the deliveries that wait for confirms only.
        """
        self._turns += 1
        period_ends = self._turns % PERIOD_TURNS == 0
        if period_ends and self._largest_of_period:
            self._largest_batch, self._largest_of_period = self._largest_of_period, 0
        if self._largest_batch == 0:
            return
        reach = self._reach()
        self._reach_of_period = max(self._reach_of_period, reach)
        # Each fall makes a new consumer: slots that the other lane only takes for a while are no reason.
        fewer_slots = period_ends and self._reach_of_period < self._within_reach - self._step
        if fewer_slots or reach > self._within_reach:
            self._within_reach = self._reach_of_period
        if period_ends:
            self._reach_of_period = 0
        base = self._base() + _within_bounds(copying)
        wanted = max(self._deliveries, base)
        if fewer_slots:
            wanted = base
        elif idle is not None and waiting == 0 and held >= self._deliveries:
            idle_batches = math.ceil(idle / self._largest_batch)
            wanted = min(self._deliveries + max(1, idle_batches), LARGEST_STRETCH * base + 1)
        elif waiting > 2 * self._largest_batch + self._within_reach // 4:
            wanted = base
        if wanted != self._deliveries:
            self._set(wanted)

    def _reach(self) -> int:
        """The slots that the lane can have by now or soon: in whole steps, and one ahead."""
        can_have = self._slots.in_use(self._lane) + self._slots.free(self._lane)
        return min(self._most, (can_have // self._step + 1) * self._step)

    def _base(self) -> int:
        ahead = self._within_reach
        if self._limit is not None:
            ahead = min(ahead, int(AHEAD_OF_LIMIT_S * self._limit.rate))
        return ahead // self._largest_batch + 1

    def _set(self, deliveries: int) -> None:
        self._deliveries = deliveries
        self._subscription.set_prefetch(deliveries)


def _within_bounds(copying: Iterable[Delivery]) -> int:
    """How many deliveries may wait for the confirms of copies or rejects on top of the others: under a memory alarm,
    which holds publishes up, they must not keep the lane from draining. As many as fit into COPYING_BYTES.
    """
    sizes = (len(delivery.body) + DELIVERY_BYTES for delivery in copying)
    return sum(1 for total in accumulate(sizes) if total <= COPYING_BYTES)
