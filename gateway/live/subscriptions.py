"""Subscriptions: subscribers grouped by what they see, so that each event is encoded and joined once for many."""

import asyncio
from collections.abc import Callable, Iterator

from common.tracking.port import Step
from gateway.live.filters import Filters
from gateway.live.frames import Encoded, Join, pieces
from gateway.live.subscribers import Subscriber

# This many offers hold the event loop for less than a millisecond; then other tasks get a turn.
OFFERS_A_TURN = 100


class _Group:
    """Subscribers with the same filters on the same kind of wire.

    Attributes:
        filters: Which events they get.
        join: How events become a frame for them.
        members: The subscribers.
        events: Events that wait to be joined and sent.
    """

    def __init__(self, filters: Filters, join: Join) -> None:
        self.filters = filters
        self.join = join
        self.members: dict[Subscriber, None] = {}
        self.events: list[Encoded] = []


class Subscriptions:
    """All subscribers. Events are added one by one, and sent when `broadcast` is called.

    `has(owner, run)` says whether a run is an owner's.
    """

    def __init__(self, has: Callable[[str, str], bool] = lambda _owner, _run: False) -> None:
        self._has = has
        self._groups: dict[tuple[Filters, Join], _Group] = {}
        # Groups by the narrowest thing that they ask for (a message id, else a run, else ""), and by run alone: the
        # cost of an event must not grow with the number of clients that follow other messages.
        self._by_message: dict[str, dict[_Group, None]] = {}
        self._by_run: dict[str, dict[_Group, None]] = {}
        self._size = 0
        self._owned = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Subscriber]:
        return (member for group in list(self._groups.values()) for member in list(group.members))

    @property
    def need_owners(self) -> bool:
        """Whether some subscriber sees only what belongs to it."""
        return self._owned > 0

    def add(self, subscriber: Subscriber) -> None:
        """From now on the subscriber gets the events that its filters let through."""
        key = (subscriber.filters, subscriber.join)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(*key)
            self._by_message.setdefault(_narrowest(group.filters), {})[group] = None
            self._by_run.setdefault(group.filters.run or "", {})[group] = None
        group.members[subscriber] = None
        self._size += 1
        self._owned += subscriber.filters.owner is not None

    def remove(self, subscriber: Subscriber) -> None:
        """The subscriber gets no more events. Removing it twice changes nothing."""
        key = (subscriber.filters, subscriber.join)
        group = self._groups.get(key)
        if group is None or subscriber not in group.members:
            return
        del group.members[subscriber]
        self._size -= 1
        self._owned -= subscriber.filters.owner is not None
        if not group.members:
            del self._groups[key]
            _take_off(self._by_message, _narrowest(group.filters), group)
            _take_off(self._by_run, group.filters.run or "", group)

    def add_step(self, step: Step, encode: Callable[[Step], bytes]) -> int:
        """Adds an event for the followers of this message; gives its size in bytes, 0 if there are none."""
        event: Encoded | None = None
        for key in (step.uuid, step.run, ""):
            for group in self._by_message.get(key, ()):
                if group.filters.let_through(step) and self._may_see(group, step.run):
                    if event is None:
                        event = Encoded(b"message", encode(step))
                    group.events.append(event)
        return len(event.json) if event is not None else 0

    def add_run(self, run: str, json: bytes) -> None:
        """Adds an event for the followers of this run."""
        event = Encoded(b"run", json)
        for key in (run, ""):
            for group in self._by_run.get(key, ()):
                if self._may_see(group, run):
                    group.events.append(event)

    def add_for_all(self, event: Encoded) -> None:
        """Adds an event for every subscriber that sees all."""
        for group in self._groups.values():
            if group.filters.owner is None:
                group.events.append(event)

    def add_sign_of_life(self) -> None:
        """Offers an empty frame to the subscribers that get no event for all: a silent connection looks dead."""
        for group in self._groups.values():
            if group.filters.owner is not None and not group.events and (frame := group.join([])):
                for member in list(group.members):
                    member.offer(frame)

    def _may_see(self, group: _Group, run: str) -> bool:
        owner = group.filters.owner
        return owner is None or self._has(owner, run)

    async def broadcast(self) -> None:
        """Sends the events that were added since the last call."""
        offers = 0
        for group in [group for group in self._groups.values() if group.events]:
            events, group.events = group.events, []
            for piece in pieces(events):
                frame = group.join(piece)
                for member in list(group.members):
                    member.offer(frame)
                    offers += 1
                    if offers % OFFERS_A_TURN == 0:
                        await asyncio.sleep(0)


def _narrowest(filters: Filters) -> str:
    return filters.uuid or filters.run or ""


def _take_off(index: dict[str, dict[_Group, None]], key: str, group: _Group) -> None:
    del index[key][group]
    if not index[key]:
        del index[key]
