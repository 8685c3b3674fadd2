"""Replays what stands on a shelf: messages that failed, or bodies that were rejected, as new runs.

Each new run names the old one. Order: announce, publish, confirm, ack the body on the shelf. A replay that is killed
leaves what it had not acked on the shelf, so a message can be replayed twice, but none is lost.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from common.broker.port import Broker, Delivery, Shelf
from common.errors import BadBody, PublishFailed, UnknownRun
from common.ledger.port import Ledger, Outcomes
from common.messages import Batch, Message, Outcome, Seqs, State, decode_batch, new_run_id

log = logging.getLogger(__name__)

SOURCE = "replay"
# A shelf that says nothing for so long has no more for us: another reader may hold the rest.
SILENCE_S = 5.0
# Bodies published together; a replay that is killed leaves no more announced and unpublished.
WINDOW = 500
PAUSE_AFTER_FAILURE_S = 0.2


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger keeps of a replay: the run it repeats. Its messages can't be made again from it."""

    source: str = SOURCE
    of: str
    shelf: str
    count: int


@dataclass(eq=False)
class Body:
    """A body on the shelf, with what of it is to be replayed."""

    delivery: Delivery
    run: str
    messages: list[Message]


@dataclass
class Found:
    """What stands on a shelf. The counts are messages, but for `unusable`, which are bodies.

    `limit_below_first`: how many messages the first body has, if that alone is over the limit.
    """

    bodies: list[Body] = field(default_factory=list)
    spent: list[Delivery] = field(default_factory=list)
    messages: int = 0
    already_settled: int = 0
    repeated: int = 0
    beyond_limit: int = 0
    limit_below_first: int = 0
    of_other_runs: int = 0
    unusable: dict[str, int] = field(default_factory=dict)

    def by_run(self) -> dict[str, list[Body]]:
        """The bodies to be replayed, by their run."""
        runs: dict[str, list[Body]] = {}
        for body in self.bodies:
            runs.setdefault(body.run, []).append(body)
        return runs


@dataclass(frozen=True)
class Replayed:
    """One new run."""

    run: str
    of: str
    messages: int


class Replay:
    """Looks through a shelf, then publishes what it found. One use."""

    def __init__(self, broker: Broker, ledger: Ledger, shelf: Shelf, producer: str) -> None:
        self._broker = broker
        self._ledger = ledger
        self._shelf = shelf
        self._producer = producer

    async def look(self, depth: int, run: str | None = None, limit: int | None = None) -> Found:
        """Takes `depth` bodies in hand and says what a replay would do; nothing leaves the shelf by this.

        `run`: only that run's messages. `limit`: no more messages than that; a body is replayed whole or not at all.
        """
        found, seen = Found(), dict[str, set[int]]()
        subscription = await self._broker.subscribe(self._shelf, depth)
        left = depth
        while left > 0:
            try:
                async with asyncio.timeout(SILENCE_S):
                    deliveries = await subscription.take()
            except TimeoutError:
                break
            left -= len(deliveries)
            for delivery in deliveries:
                await self._look_at(delivery, run, limit, found, seen)
        return found

    async def carry_out(
        self, found: Found, on_progress: Callable[[int], None] = lambda _: None
    ) -> list[Replayed]:
        """Publishes a new run for each old one; takes off the shelf what was published, and copies that are spent."""
        replayed, done = [], 0
        for of, bodies in found.by_run().items():
            new = Replayed(new_run_id(), of, sum(len(body.messages) for body in bodies))
            recipe = Recipe(of=of, shelf=self._shelf, count=new.messages)
            await self._ledger.begin(
                new.run, msgspec.json.encode(recipe).decode(), new.messages, self._producer
            )
            published = 0
            try:
                for i in range(0, len(bodies), WINDOW):
                    published = await self._publish(new.run, published, bodies[i : i + WINDOW])
                    on_progress(done + published)
            finally:
                if published < new.messages:
                    await self._ledger.cut(new.run)
            done += published
            replayed.append(new)
        for delivery in found.spent:
            delivery.ack()
        return replayed

    async def _look_at(
        self, delivery: Delivery, run: str | None, limit: int | None, found: Found, seen: dict[str, set[int]]
    ) -> None:
        try:
            batch, seqs = decode_batch(delivery.body)
        except BadBody as error:
            why = delivery.reason or str(error)
            found.unusable[why] = found.unusable.get(why, 0) + 1
            return
        if run is not None and batch.run != run:
            found.of_other_runs += len(batch.messages)
            return
        states = await self._states(batch.run, seqs)
        known = seen.setdefault(batch.run, set())
        wanted = []
        for message, state in zip(batch.messages, states, strict=True):
            if state is not None and not self._replayable(State(state)):
                found.already_settled += 1
            elif message.seq in known:
                found.repeated += 1
            else:
                wanted.append(message)
        if not wanted:
            found.spent.append(delivery)
        elif limit is not None and found.messages + len(wanted) > limit:
            found.beyond_limit += len(wanted)
            if not found.bodies:
                found.limit_below_first = found.limit_below_first or len(wanted)
        else:
            known.update(m.seq for m in wanted)
            found.bodies.append(Body(delivery, batch.run, wanted))
            found.messages += len(wanted)

    async def _states(self, run: str, seqs: Seqs) -> list[int | None]:
        try:
            return list((await self._ledger.states(run, seqs)).tolist())
        except UnknownRun:
            return [None] * seqs.size

    def _replayable(self, state: State) -> bool:
        """A kept copy counts only if its message has failed in the end; a rejected one unless it was sent."""
        return state is State.FAILED if self._shelf is Shelf.FAILED else state is not State.SENT

    async def _publish(self, run: str, first: int, bodies: list[Body]) -> int:
        """Publishes some bodies' messages under seqs from `first` on; gives the seq after the last."""
        batches, upto = [], first
        for body in bodies:
            messages = [Message(upto + k, m.to, m.text) for k, m in enumerate(body.messages)]
            batches.append(Batch(run=run, messages=messages))
            upto += len(messages)
        await self._ledger.announce(run, first, upto - first)
        await asyncio.gather(
            *(self._publish_one(batch, body) for batch, body in zip(batches, bodies, strict=True))
        )
        await self._ledger.confirm(run, upto)
        await self._give_up_old(bodies)
        for body in bodies:
            body.delivery.ack()
        return upto

    async def _publish_one(self, batch: Batch, body: Body) -> None:
        while True:
            try:
                await self._broker.ready()
                await self._broker.publish(batch, body.delivery.lane)
                return
            except PublishFailed as error:
                log.warning("publish_failed", extra={"reason": str(error), "run": batch.run})
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)

    async def _give_up_old(self, bodies: list[Body]) -> None:
        """What was rejected reaches no sender under its old name any more: there it has failed, so its run ends."""
        if self._shelf is not Shelf.REJECTED:
            return
        for body in bodies:
            seqs = np.array([m.seq for m in body.messages], np.int64)
            states = await self._states(body.run, seqs)
            open_still = seqs[[s in (State.QUEUED, State.SENDING) for s in states]]
            if open_still.size:
                await self._ledger.settle(body.run, failed(open_still))


def failed(seqs: Seqs) -> Outcomes:
    """The outcome of messages that no sender will see."""
    return Outcomes(seqs, np.full(seqs.size, Outcome.FAILED, np.uint8), np.zeros(seqs.size, np.int64))
