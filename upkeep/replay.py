"""Replays a parked queue: publishes messages that failed, or bodies that were rejected, as new runs.

Each new run names the old one. Order: announce, publish, confirm, mark the old messages as replayed, ack the parked
bodies. A replay that is killed between the publish and the mark leaves at most a window of messages that the next
replay publishes again; no message is lost.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec
import numpy as np

from common.broker.confirm import publish_until_confirmed
from common.broker.port import Broker, ParkedQueue
from common.cli import LAST_WORDS_S
from common.errors import UnknownRun
from common.ledger import port as ledger_port
from common.ledger.heartbeat import producer_heartbeat
from common.ledger.port import Ledger
from common.ledger.values import Outcomes
from common.messages import Batch, Lane, Message, Outcome, Seqs, State, fitting, new_run_id
from common.publishing.recipes import origin_in
from upkeep.parked import Found, ParkedBody, ParkedReader, Selection, states_of

log = logging.getLogger(__name__)

SOURCE = "replay"


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of a replay, in seconds.

    Attributes:
        silence_s: When the parked queue delivers nothing for this long, the replay ends.
        heartbeat_s: Interval of the heartbeats of the new runs.
        end_s: How long a replay that breaks off tries to end its runs.
    """

    silence_s: float = 5.0
    heartbeat_s: float = ledger_port.TIMING.producer_silence_s / 3
    end_s: float = LAST_WORDS_S


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes that a replay keeps within.

    Attributes:
        window: Bodies that are held and published together. A replay that is killed leaves at most these published and
            unmarked.
    """

    window: int = 500


TIMING = Timing()
LIMITS = Limits()


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger keeps of a replay. The messages of its run cannot be made again.

    Attributes:
        shelf: The parked queue.
        queue: The queue whose senders are to send them.
        owner: The API key that owns the replayed run, and this one.
    """

    source: str = SOURCE
    of: str
    shelf: str
    count: int
    queue: str
    owner: str | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True)
class Replayed:
    """A new run.

    Attributes:
        of: The run that it replays.
    """

    run: str
    of: str
    messages: int


@dataclass(eq=False)
class _NewRun:
    """A run that is being published.

    Attributes:
        announced: All seqs below this are announced.
        unconfirmed: The seqs that are to be published and not confirmed.
    """

    name: str
    total: int
    announced: int = 0
    unconfirmed: set[int] = field(default_factory=set)

    @property
    def broke_off(self) -> bool:
        """Whether it is not wholly published."""
        return bool(self.unconfirmed) or self.announced != self.total


@dataclass(frozen=True, slots=True)
class _Publish:
    """A batch to be published."""

    batch: Batch
    lane: Lane
    new: _NewRun


class Replay:
    """Looks through a parked queue, or replays it. Usable once: the bodies stay unacked until the broker is closed.

    `queue` is the name of the queue whose senders are to send the messages; `producer` names this process.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        selection: Selection,
        *,
        queue: str,
        producer: str,
        timing: Timing = TIMING,
        limits: Limits = LIMITS,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._selection = selection
        self._queue = queue
        self._producer = producer
        self._timing = timing
        self._limits = limits
        self._reader = ParkedReader(
            broker, ledger, selection, window=limits.window, silence_s=timing.silence_s
        )

    async def look(self, depth: int) -> Found:
        """What a replay of the first `depth` bodies would publish. Changes nothing."""
        found = Found(depth)
        async for _ in self._reader.bodies(found, acking=False):
            pass
        return found

    async def carry_out(
        self, found: Found, on_progress: Callable[[int], None] = lambda _: None
    ) -> list[Replayed]:
        """Publishes a new run for each old one, and removes the published and the spent bodies from the queue."""
        runs: dict[str, _NewRun] = {}
        async with contextlib.AsyncExitStack() as ends:
            window: list[ParkedBody] = []
            async for body in self._reader.bodies(Found(found.depth), acking=True):
                if body.wanted and body.run not in runs:
                    total = found.wanted.get(body.run, len(body.wanted))
                    runs[body.run] = await self._begin(body.run, total, ends)
                window.append(body)
                if len(window) == self._limits.window:
                    await self._replay(window, runs)
                    window = []
                    on_progress(sum(new.announced for new in runs.values()))
            await self._replay(window, runs)
        return [Replayed(new.name, of, new.announced) for of, new in runs.items()]

    async def _begin(self, of: str, total: int, ends: contextlib.AsyncExitStack) -> _NewRun:
        """Opens a new run, with a heartbeat; `ends` ends both."""
        new = _NewRun(new_run_id(), total)
        owner: str | msgspec.UnsetType = msgspec.UNSET
        with contextlib.suppress(UnknownRun):
            owner = origin_in((await self._ledger.publication(of)).recipe).owner or owner
        recipe = Recipe(of=of, shelf=self._selection.queue, count=total, queue=self._queue, owner=owner)
        await self._ledger.begin(new.name, msgspec.json.encode(recipe).decode(), total, self._producer)
        ends.push_async_callback(self._end, new)
        await ends.enter_async_context(producer_heartbeat(self._ledger, new.name, self._timing.heartbeat_s))
        return new

    async def _end(self, new: _NewRun) -> None:
        """Ends a run that broke off. What is announced and not published has failed in it, and is still parked."""
        if not new.broke_off:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timing.end_s):
                if new.unconfirmed:
                    await self._ledger.settle(new.name, failed(np.array(sorted(new.unconfirmed), np.int64)))
                if new.announced != new.total:
                    await self._ledger.close_run(new.name)
        published = new.announced - len(new.unconfirmed)
        log.warning("replay_broke_off", extra={"run": new.name, "published": published})

    async def _replay(self, bodies: list[ParkedBody], runs: dict[str, _NewRun]) -> None:
        """Publishes the messages of a window, and removes its bodies from the queue."""
        publishes = [
            publish for body in bodies if body.wanted for publish in _publishes(body, runs[body.run])
        ]
        at_work = [new for new in runs.values() if new.unconfirmed]
        for new in at_work:
            await self._ledger.announce(new.name, new.announced, len(new.unconfirmed))
            new.announced += len(new.unconfirmed)
        await publish_until_confirmed(
            self._broker, *(partial(self._publish, publish) for publish in publishes)
        )
        for new in at_work:
            await self._ledger.confirm(new.name, new.announced)
        for body in bodies:
            # In this order: a marked message is not looked at again.
            await self._settle_rejected(body)
            await self._ledger.mark_replayed(body.run, body.seqs)
        for body in bodies:
            body.delivery.ack()

    async def _publish(self, publish: _Publish) -> None:
        await self._broker.publish(publish.batch, publish.lane)
        publish.new.unconfirmed.difference_update(message.seq for message in publish.batch.messages)

    async def _settle_rejected(self, body: ParkedBody) -> None:
        """Settles rejected messages as failed in their old run: no sender gets them in it, and the run must end."""
        if self._selection.queue is not ParkedQueue.REJECTED:
            return
        states = await states_of(self._ledger, body.run, body.seqs)
        still_open = body.seqs[[state in (State.QUEUED, State.SENDING) for state in states]]
        if still_open.size:
            await self._ledger.settle(body.run, failed(still_open))


def _publishes(body: ParkedBody, new: _NewRun) -> list[_Publish]:
    """The batches of a body in its new run, under the next seqs of that."""
    first = new.announced + len(new.unconfirmed)
    messages: list[Message] = [
        msgspec.structs.replace(message, seq=seq) for seq, message in enumerate(body.wanted, first)
    ]
    new.unconfirmed.update(message.seq for message in messages)
    simulated = True if body.simulated else msgspec.UNSET
    batch = Batch(run=new.name, simulated=simulated, messages=messages)
    return [_Publish(part, body.delivery.lane, new) for part in fitting(batch)]


def failed(seqs: Seqs) -> Outcomes:
    """The outcome of messages that no sender will get."""
    return Outcomes(seqs, np.full(seqs.size, Outcome.FAILED, np.uint8), np.zeros(seqs.size, np.int64))
