"""The slots of a sender: one pool for both lanes, in which urgent messages come first."""

import asyncio

from common.messages import Lane


class Slots:
    """Who may begin how many sends. Bulk messages have `slots` at most, and a tenth of that, at least one, is there
    besides. Urgent messages have any that is free, and what comes free while they wait
    (docs/adr/0002-urgent-slots-on-top.md).

    A lane tells what comes, begins and ends; its event in `changed` says that it may have more room now.
    """

    def __init__(self, slots: int) -> None:
        self.total = slots + max(1, slots // 10)
        self.changed = {lane: asyncio.Event() for lane in Lane}
        self._most = {Lane.BULK: slots, Lane.URGENT: self.total}
        self._in_use = dict.fromkeys(Lane, 0)
        self._waiting = dict.fromkeys(Lane, 0)

    def most(self, lane: Lane) -> int:
        """How many a lane may ever have at once."""
        return self._most[lane]

    def in_use(self, lane: Lane) -> int:
        """How many a lane has now."""
        return self._in_use[lane]

    def waiting(self, lane: Lane) -> int:
        """How many messages of a lane are in hand and have no slot."""
        return self._waiting[lane]

    def free(self, lane: Lane) -> int:
        """How many a lane may take now."""
        left = self.total - sum(self._in_use.values())
        if lane is Lane.BULK:
            left = min(left - self._waiting[Lane.URGENT], self._most[lane] - self._in_use[lane])
        return max(0, left)

    def came(self, lane: Lane, messages: int) -> None:
        """So many messages wait for a slot from now on."""
        self._waiting[lane] += messages
        self.changed[lane].set()

    def take(self, lane: Lane, messages: int) -> None:
        """So many of those that waited have a slot now."""
        self._waiting[lane] -= messages
        self._in_use[lane] += messages

    def left(self, lane: Lane, messages: int) -> None:
        """So many wait no longer, and need no slot."""
        self._waiting[lane] -= messages
        self._wake(other_than=lane)

    def give(self, lane: Lane, slots: int) -> None:
        """So many slots of a lane are free again."""
        self._in_use[lane] -= slots
        self.changed[lane].set()
        self._wake(other_than=lane)

    def _wake(self, other_than: Lane) -> None:
        for lane, waiting in self._waiting.items():
            if waiting and lane is not other_than:
                self.changed[lane].set()
