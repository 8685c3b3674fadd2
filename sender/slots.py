"""The slots of a sender: one pool for both lanes, in which urgent messages come first."""

import asyncio

from common.messages import Lane


class Slots:
    """Counts the sends in flight and the messages that wait for a slot.

    Bulk messages have `slots` at most. A tenth of that, at least one, comes on top. Urgent messages have any slot
    that is free, and the next ones that come free while they wait (docs/adr/0002-urgent-slots-on-top.md).

    Each message goes one of two ways: `enqueue`, `acquire`, `release`, or `enqueue`, `dequeue`.

    Attributes:
        total: All slots.
        changed: For each lane, an event that is set when the lane may have more room.
    """

    def __init__(self, slots: int) -> None:
        self.total = slots + max(1, slots // 10)
        self.changed = {lane: asyncio.Event() for lane in Lane}
        self._most = {Lane.BULK: slots, Lane.URGENT: self.total}
        self._in_use = dict.fromkeys(Lane, 0)
        self._waiting = dict.fromkeys(Lane, 0)
        self._unused = {lane: asyncio.Event() for lane in Lane}

    def most(self, lane: Lane) -> int:
        """The most slots that a lane may have at once."""
        return self._most[lane]

    def in_use(self, lane: Lane) -> int:
        """The slots that a lane has now."""
        return self._in_use[lane]

    def waiting(self, lane: Lane) -> int:
        """The messages of a lane that wait for a slot."""
        return self._waiting[lane]

    def free(self, lane: Lane) -> int:
        """The slots that a lane may acquire now."""
        left = self.total - sum(self._in_use.values())
        if lane is Lane.BULK:
            left = min(left - self._waiting[Lane.URGENT], self._most[lane] - self._in_use[lane])
        return max(0, left)

    def enqueue(self, lane: Lane, messages: int) -> None:
        """More messages wait for a slot."""
        self._waiting[lane] += messages
        self.changed[lane].set()

    def acquire(self, lane: Lane, messages: int) -> None:
        """Messages that waited have a slot now."""
        self._waiting[lane] -= messages
        self._in_use[lane] += messages

    def dequeue(self, lane: Lane, messages: int) -> None:
        """Messages that waited no longer need a slot."""
        self._waiting[lane] -= messages
        self._wake(other_than=lane)

    def release(self, lane: Lane, slots: int) -> None:
        """Slots of a lane are free again."""
        self._in_use[lane] -= slots
        self.changed[lane].set()
        self._wake(other_than=lane)
        if not self._in_use[lane]:
            self._unused[lane].set()

    async def unused(self, lane: Lane) -> None:
        """Returns once a lane has no slot."""
        while self._in_use[lane]:
            self._unused[lane].clear()
            await self._unused[lane].wait()

    def _wake(self, other_than: Lane) -> None:
        for lane, waiting in self._waiting.items():
            if waiting and lane is not other_than:
                self.changed[lane].set()
