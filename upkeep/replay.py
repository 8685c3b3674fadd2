"""Replays what stands on a shelf: messages that failed, or bodies that were rejected, as new runs.

Each new run names the old one. Order: announce, publish, confirm, mark the old messages as replayed, ack the bodies on
the shelf. A replay that is killed between the publish and the mark leaves messages that the next one replays again, no
more than a window's; none is lost.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec
import numpy as np

from common.broker.confirm import publish_until_confirmed
from common.broker.port import Broker, Delivery, ParkedQueue
from common.cli import LAST_WORDS_S
from common.errors import BadBody, UnknownRun
from common.ledger import port as ledger_port
from common.ledger.heartbeat import producer_heartbeat
from common.ledger.port import Ledger
from common.ledger.values import Outcomes
from common.messages import Batch, Lane, Message, Outcome, Seqs, State, decode_batch, fitting, new_run_id
from upkeep.seen import Seen

log = logging.getLogger(__name__)

SOURCE = "replay"


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of a replay, in seconds.

    Attributes:
        silence_s: When the shelf delivers nothing for this long, the replay ends: another reader may hold the rest.
        heartbeat_s: Interval of the heartbeats of the new runs.
    """

    silence_s: float = 5.0
    heartbeat_s: float = ledger_port.TIMING.producer_silence_s / 3


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes that a replay keeps within.

    Attributes:
        window: Bodies that are held and published together. A replay that is killed leaves no more than these published
            and unmarked.
    """

    window: int = 500


TIMING = Timing()
LIMITS = Limits()


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger keeps of a replay: the run it repeats. Its messages can't be made again from it."""

    source: str = SOURCE
    of: str
    shelf: str
    count: int
    queue: str


@dataclass
class Found:
    """What stands on a shelf. The counts are messages, but for `depth` and `unusable`, which are bodies.

    `wanted`: run -> messages to be replayed. `first_over_limit`: how many messages the first of the bodies that are
    over the limit would have added.
    """

    depth: int
    wanted: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    still_open: int = 0
    repeated: int = 0
    over_limit: int = 0
    first_over_limit: int = 0
    of_other_runs: int = 0
    unusable: dict[str, int] = field(default_factory=dict)

    @property
    def messages(self) -> int:
        """All that are to be replayed."""
        return sum(self.wanted.values())


@dataclass(frozen=True)
class Replayed:
    """One new run."""

    run: str
    of: str
    messages: int


@dataclass(eq=False)
class _Body:
    """A body in hand, and what of it is to be replayed: nothing if it is spent."""

    delivery: Delivery
    run: str
    wanted: list[Message]


@dataclass(eq=False)
class _NewRun:
    """A run that is being published: how far it is announced, and which seqs of that are not confirmed."""

    name: str
    total: int
    announced: int = 0
    unconfirmed: set[int] = field(default_factory=set)


class Replay:
    """Looks through a shelf, or replays it: one use, since what was looked at stays in hand until the broker is closed.

    `queue` is the name of the queue whose senders are to send it. `run`: only that run's messages. `limit`: no more
    messages than that; a body is replayed whole or not at all.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        shelf: ParkedQueue,
        queue: str,
        producer: str,
        run: str | None = None,
        limit: int | None = None,
        timing: Timing = TIMING,
        limits: Limits = LIMITS,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._shelf = shelf
        self._queue = queue
        self._producer = producer
        self._run = run
        self._limit = limit
        self._timing = timing
        self._window = limits.window
        self._seen = Seen()

    async def look(self, depth: int) -> Found:
        """Says what a replay of the first `depth` bodies would do; nothing leaves the shelf by this."""
        found = Found(depth)
        async for _ in self._bodies(found, acking=False):
            pass
        return found

    async def carry_out(
        self, found: Found, on_progress: Callable[[int], None] = lambda _: None
    ) -> list[Replayed]:
        """Publishes a new run for each old one; takes off the shelf what was published, and copies that are spent."""
        runs: dict[str, _NewRun] = {}
        async with contextlib.AsyncExitStack() as ends:
            window: list[_Body] = []
            async for body in self._bodies(Found(found.depth), acking=True):
                if body.wanted and body.run not in runs:
                    runs[body.run] = await self._begin(
                        body.run, found.wanted.get(body.run, len(body.wanted)), ends
                    )
                window.append(body)
                if len(window) == self._window:
                    await self._publish(window, runs)
                    window = []
                    on_progress(sum(new.announced for new in runs.values()))
            await self._publish(window, runs)
        return [Replayed(new.name, of, new.announced) for of, new in runs.items()]

    async def _bodies(self, found: Found, acking: bool) -> AsyncIterator[_Body]:
        """The bodies to be replayed, and the spent ones, which the caller acks a window at a time, if it does; counts
        into `found`. What stays on the shelf is held, and let go of when the broker is closed.
        """
        subscription = await self._broker.subscribe(self._shelf, 2 * self._window)
        left, staying, made_room_for = found.depth, 0, 0
        while left > 0:
            try:
                async with asyncio.timeout(self._timing.silence_s):
                    deliveries = await subscription.take()
            except TimeoutError:
                break
            left -= len(deliveries)
            for delivery in deliveries[: len(deliveries) + min(0, left)]:
                body = await self._sorted_out(delivery, found)
                staying += body is None or not acking
                if body is not None:
                    yield body
            if staying - made_room_for > self._window // 2:  # what stays in hand must not keep the rest away
                made_room_for = staying
                subscription.set_prefetch(staying + 2 * self._window)

    async def _sorted_out(self, delivery: Delivery, found: Found) -> _Body | None:
        try:
            batch, seqs = decode_batch(delivery.body)
        except BadBody as error:
            why = delivery.reason or str(error)
            found.unusable[why] = found.unusable.get(why, 0) + 1
            return None
        if self._run is not None and batch.run != self._run:
            found.of_other_runs += len(batch.messages)
            return None
        states = await self._states(batch.run, seqs)
        done = (await self._ledger.replayed(batch.run, seqs)) | self._seen.has(batch.run, seqs)
        wanted, open_still = [], 0
        for message, state, replayed in zip(batch.messages, states, done.tolist(), strict=True):
            if state == State.SENT:
                found.sent += 1
            elif replayed:
                found.repeated += 1
            elif self._shelf is ParkedQueue.FAILED and state in (State.QUEUED, State.SENDING):
                open_still += 1
            else:
                wanted.append(message)
        if open_still:
            # Whoever kept it may be about to settle it: then it has failed, and this is the copy to replay.
            found.still_open += open_still + len(wanted)
            return None
        if wanted and self._limit is not None and found.messages + len(wanted) > self._limit:
            found.over_limit += len(wanted)
            found.first_over_limit = found.first_over_limit or len(wanted)
            return None
        if wanted:
            found.wanted[batch.run] = found.wanted.get(batch.run, 0) + len(wanted)
            self._seen.add(batch.run, np.array([m.seq for m in wanted], np.int64))
        return _Body(delivery, batch.run, wanted)

    async def _states(self, run: str, seqs: Seqs) -> list[int | None]:
        """The state of each; None where the run is gone from the ledger."""
        try:
            return list((await self._ledger.states(run, seqs)).tolist())
        except UnknownRun:
            return [None] * seqs.size

    async def _begin(self, of: str, total: int, ends: contextlib.AsyncExitStack) -> _NewRun:
        new = _NewRun(new_run_id(), total)
        recipe = Recipe(of=of, shelf=self._shelf, count=total, queue=self._queue)
        await self._ledger.begin(new.name, msgspec.json.encode(recipe).decode(), total, self._producer)
        ends.push_async_callback(self._end, new)
        await ends.enter_async_context(producer_heartbeat(self._ledger, new.name, self._timing.heartbeat_s))
        return new

    async def _end(self, new: _NewRun) -> None:
        """However it ends, so does the run: what was announced and not published has failed in it; it is still on the
        shelf.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                if new.unconfirmed:
                    await self._ledger.settle(new.name, failed(np.array(sorted(new.unconfirmed), np.int64)))
                if new.announced != new.total:
                    await self._ledger.close_run(new.name)
        if new.unconfirmed or new.announced != new.total:
            log.warning(
                "replay_broke_off", extra={"run": new.name, "published": new.announced - len(new.unconfirmed)}
            )

    async def _publish(self, bodies: list[_Body], runs: dict[str, _NewRun]) -> None:
        """Publishes a window's messages, each under the next seq of its new run, and takes the bodies off the shelf."""
        batches: list[tuple[Batch, Lane, _NewRun]] = []
        for body in bodies:
            if not body.wanted:
                continue
            new = runs[body.run]
            first = new.announced + len(new.unconfirmed)
            messages = [msgspec.structs.replace(m, seq=first + k) for k, m in enumerate(body.wanted)]
            new.unconfirmed.update(m.seq for m in messages)
            batches += [
                (batch, body.delivery.lane, new) for batch in fitting(Batch(run=new.name, messages=messages))
            ]
        at_work = [new for new in runs.values() if new.unconfirmed]
        for new in at_work:
            await self._ledger.announce(new.name, new.announced, len(new.unconfirmed))
            new.announced += len(new.unconfirmed)
        publishes = [partial(self._publish_one, batch, lane, new) for batch, lane, new in batches]
        await publish_until_confirmed(self._broker, *publishes)
        for new in at_work:
            await self._ledger.confirm(new.name, new.announced)
        for body in bodies:
            seqs = np.array([m.seq for m in body.wanted], np.int64)
            # In this order: what is marked is done with, and looked at no more.
            await self._give_up_old(body.run, seqs)
            await self._ledger.mark_replayed(body.run, seqs)
        for body in bodies:
            body.delivery.ack()

    async def _publish_one(self, batch: Batch, lane: Lane, new: _NewRun) -> None:
        await self._broker.publish(batch, lane)
        new.unconfirmed.difference_update(m.seq for m in batch.messages)

    async def _give_up_old(self, run: str, seqs: Seqs) -> None:
        """What was rejected reaches no sender under its old name any more: there it has failed, so its run ends."""
        if self._shelf is not ParkedQueue.REJECTED:
            return
        states = await self._states(run, seqs)
        open_still = seqs[[state in (State.QUEUED, State.SENDING) for state in states]]
        if open_still.size:
            await self._ledger.settle(run, failed(open_still))


def failed(seqs: Seqs) -> Outcomes:
    """The outcome of messages that no sender will see."""
    return Outcomes(seqs, np.full(seqs.size, Outcome.FAILED, np.uint8), np.zeros(seqs.size, np.int64))
