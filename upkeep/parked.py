"""Reads a parked queue, and finds out which of its messages are to be replayed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import numpy as np

from common.broker.port import Broker, Delivery, ParkedQueue
from common.errors import BadBody, UnknownRun
from common.ledger.port import Reports
from common.messages import Batch, Message, Seqs, State, decode_batch
from upkeep.seen import Seen


@dataclass(frozen=True, slots=True)
class Selection:
    """Which messages to replay.

    Attributes:
        limit: No more messages than this, if given. A body is replayed whole or not at all.
    """

    queue: ParkedQueue
    run: str | None = None
    limit: int | None = None


@dataclass
class Found:
    """What a parked queue holds. All counts are messages, except `depth` and `unusable`, which are bodies.

    Attributes:
        depth: Bodies that are looked at.
        canceled: Messages that are canceled.
        still_open: Messages that may still be settled, and those that share a body with one.
        repeated: Messages that are replayed already, or that are twice in the queue.
        over_limit: Messages beyond the limit.
        first_over_limit: Messages that the first body beyond the limit would have added.
        of_other_runs: Messages of other runs than the one selected.
        unusable: Bodies that cannot be decoded, by reason.
    """

    depth: int
    wanted: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    canceled: int = 0
    still_open: int = 0
    repeated: int = 0
    over_limit: int = 0
    first_over_limit: int = 0
    of_other_runs: int = 0
    unusable: dict[str, int] = field(default_factory=dict)

    @property
    def messages(self) -> int:
        """All messages to be replayed."""
        return sum(self.wanted.values())


@dataclass(eq=False)
class ParkedBody:
    """An unacked body.

    Attributes:
        wanted: Its messages that are to be replayed; none if the body is spent.
        simulated: Whether only the simulated provider may send them.
    """

    delivery: Delivery
    run: str
    wanted: list[Message]
    simulated: bool = False

    @property
    def seqs(self) -> Seqs:
        """The seqs of the messages to be replayed."""
        return np.array([message.seq for message in self.wanted], np.int64)


class ParkedReader:
    """Reads a parked queue once: the bodies stay unacked until the broker is closed.

    `window` is how many bodies the caller acks together. A queue that delivers nothing for `silence_s` seconds has no
    more bodies for this reader: another one may hold the rest.
    """

    def __init__(
        self, broker: Broker, ledger: Reports, selection: Selection, *, window: int, silence_s: float
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._selection = selection
        self._window = window
        self._silence_s = silence_s
        self._seen = Seen()

    async def bodies(self, found: Found, acking: bool) -> AsyncIterator[ParkedBody]:
        """The bodies to be replayed and the spent ones; counts all bodies into `found`.

        With `acking`, the caller acks what it gets, a window at a time. All other bodies stay unacked.
        """
        subscription = await self._broker.subscribe(self._selection.queue, 2 * self._window)
        left, staying, room_made = found.depth, 0, 0
        while left > 0:
            try:
                async with asyncio.timeout(self._silence_s):
                    deliveries = await subscription.take()
            except TimeoutError:
                break
            for delivery in deliveries[:left]:
                body = await self._sort(delivery, found)
                staying += body is None or not acking
                if body is not None:
                    yield body
            left -= len(deliveries)
            if staying - room_made > self._window // 2:  # bodies that stay must not use up the prefetch
                room_made = staying
                subscription.set_prefetch(staying + 2 * self._window)

    async def _sort(self, delivery: Delivery, found: Found) -> ParkedBody | None:
        """The body if it is to be replayed or spent; None if it stays in the queue."""
        try:
            batch, seqs = decode_batch(delivery.body)
        except BadBody as error:
            why = delivery.reason or str(error)
            found.unusable[why] = found.unusable.get(why, 0) + 1
            return None
        if self._selection.run not in (None, batch.run):
            found.of_other_runs += len(batch.messages)
            return None
        wanted = await self._wanted(batch, seqs, found)
        if wanted is None or self._is_over_limit(wanted, found):
            return None
        body = ParkedBody(delivery, batch.run, wanted, batch.is_simulated)
        if wanted:
            found.wanted[batch.run] = found.wanted.get(batch.run, 0) + len(wanted)
            self._seen.add(batch.run, body.seqs)
        return body

    async def _wanted(self, batch: Batch, seqs: Seqs, found: Found) -> list[Message] | None:
        """The messages to be replayed; None while one of the batch may still be settled."""
        states = await states_of(self._ledger, batch.run, seqs)
        done = (await self._ledger.replayed(batch.run, seqs)) | self._seen.has(batch.run, seqs)
        canceled = await canceled_of(self._ledger, batch.run, seqs)
        wanted, still_open = [], 0
        for at, (message, state, replayed) in enumerate(
            zip(batch.messages, states, done.tolist(), strict=True)
        ):
            if state == State.SENT:
                found.sent += 1
            elif canceled[at]:
                found.canceled += 1
            elif replayed:
                found.repeated += 1
            elif self._selection.queue is ParkedQueue.FAILED and state in (State.QUEUED, State.SENDING):
                still_open += 1
            else:
                wanted.append(message)
        if still_open:
            # The sender that parked it may be about to settle it as failed; then this is the copy to replay.
            found.still_open += still_open + len(wanted)
            return None
        return wanted

    def _is_over_limit(self, wanted: list[Message], found: Found) -> bool:
        limit = self._selection.limit
        if not wanted or limit is None or found.messages + len(wanted) <= limit:
            return False
        found.over_limit += len(wanted)
        found.first_over_limit = found.first_over_limit or len(wanted)
        return True


async def states_of(ledger: Reports, run: str, seqs: Seqs) -> list[int | None]:
    """The state of each message; None if the ledger no longer has the run."""
    try:
        states: list[int | None] = list((await ledger.states(run, seqs)).tolist())
    except UnknownRun:
        return [None] * seqs.size
    return states


async def canceled_of(ledger: Reports, run: str, seqs: Seqs) -> list[bool]:
    """Which messages are canceled; none of them if the ledger no longer has the run."""
    try:
        canceled: list[bool] = (await ledger.canceled(run, seqs)).tolist()
    except UnknownRun:
        return [False] * seqs.size
    return canceled
