"""How many deliveries a lane may hold: as many as bring the messages that its slots need (docs/adr/0012)."""

import math

from common.broker.port import Subscription
from common.rate.port import RateLimit
from sender.slots import Slots
from sender.timing import LIMITS, TIMING, Limits, Timing
from sender.unacked import Unacked


class Prefetch:
    """Keeps the prefetch of a subscription in line with the messages that wait and the slots that are free.

    AMQP counts deliveries, slots need messages. A batch holds its place until its last message is settled, long after
    most of its slots are free again, and batches differ in size. So the prefetch that is needed is the number of
    unacked deliveries, and as many more as bring the missing messages. Prefetch rises to that at once, and falls to
    the most that was needed within `Timing.calm_s`.
    """

    def __init__(
        self,
        subscription: Subscription,
        unacked: Unacked,
        slots: Slots,
        *,
        limit: RateLimit | None = None,
        timing: Timing = TIMING,
        limits: Limits = LIMITS,
    ) -> None:
        self._subscription = subscription
        self._unacked = unacked
        self._slots = slots
        self._lane = unacked.lane
        self._limit = limit
        self._timing = timing
        self._limits = limits
        self._most = slots.most(self._lane)
        self._deliveries = limits.first_prefetch
        self._mean_batch = 0.0
        self._largest_batch = 0
        self._largest_lately = 0
        self._most_needed = 0
        self._reviews = 0

    def received(self, batches: list[int], rejected: int) -> None:
        """Batches of these sizes were delivered, and bodies that had to be rejected."""
        if batches:
            self._learn(batches)
        elif rejected and not self._mean_batch:
            self._set(self._limits.prefetch_past_rejects)
        too_many = 2 * self._largest_batch + self._most
        if -self._missing() > too_many:
            self._fall(self._needed(self._largest_batch))
        self.follow()

    def follow(self) -> None:
        """Raises the prefetch at once if messages are missing and all deliveries that it allows are unacked."""
        if not self._mean_batch:
            return
        self._unacked.drop_stale()
        self._most_needed = max(self._most_needed, self._needed(self._largest_batch))
        if self._unacked.deliveries < self._deliveries:
            return  # more may be on the way
        affordable = self._affordable()
        needed = min(self._needed(self._mean_batch), affordable)
        if needed > self._deliveries:
            # On RabbitMQ each raise makes another consumer, so there are few.
            enough = math.ceil(self._deliveries * (1 + self._limits.smallest_raise))
            self._set(max(needed, min(enough, affordable)))

    def review(self) -> None:
        """Lowers the prefetch if less was enough. To be called every `Timing.review_s`."""
        self.follow()
        self._reviews += 1
        if self._reviews * self._timing.review_s < self._timing.calm_s:
            return
        self._reviews = 0
        self._fall(self._most_needed)
        self._most_needed = 0
        if self._largest_lately:
            # Batches may be large again after small ones, and too many of them would come at once.
            remembered = math.ceil(self._largest_batch * self._limits.remembered)
            self._largest_batch, self._largest_lately = max(self._largest_lately, remembered), 0

    def _missing(self) -> int:
        """How many more messages should wait: for the free slots, and for those that come free until more come."""
        wanted = self._slots.free(self._lane) + math.ceil(self._most / self._limits.ahead)
        if self._limit is not None:
            wanted = min(wanted, math.ceil(self._timing.ahead_of_limit_s * self._limit.rate))
        return wanted - self._slots.waiting(self._lane)

    def _needed(self, batch: float) -> int:
        """The prefetch that brings what is missing in batches of this size."""
        return max(1, self._unacked.deliveries + math.ceil(self._missing() / batch))

    def _affordable(self) -> int:
        """The most deliveries within `Limits.unacked_bytes`, and never fewer than what the slots alone need."""
        slots_alone = int(self._most // self._mean_batch) + 1
        deliveries = self._unacked.deliveries
        if not deliveries:
            return max(slots_alone, self._deliveries)
        left = self._limits.unacked_bytes - self._unacked.bytes
        return max(slots_alone, deliveries + int(left * deliveries / self._unacked.bytes))

    def _learn(self, batches: list[int]) -> None:
        """Notes the sizes of batches."""
        self._largest_lately = max(self._largest_lately, *batches)
        self._largest_batch = max(self._largest_batch, self._largest_lately)
        mean = sum(batches) / len(batches)
        if not self._mean_batch:
            self._mean_batch = mean
        weight = min(1.0, len(batches) / self._limits.mean_deliveries)
        self._mean_batch += weight * (mean - self._mean_batch)

    def _fall(self, needed: int) -> None:
        needed = max(1, needed)
        if needed < self._limits.largest_rest * self._deliveries:
            self._set(needed)

    def _set(self, deliveries: int) -> None:
        if deliveries != self._deliveries:
            self._deliveries = deliveries
            self._subscription.set_prefetch(deliveries)
