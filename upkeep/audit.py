"""Audits the ledger: recounts every message's state, and at rest compares with what is in the queues."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict, dataclass, field
from typing import Any

from common.broker.port import Broker
from common.counters import COUNTERS, RECOUNTED
from common.errors import BadBody, UnknownRun, UsageError
from common.ledger.port import Ledger
from common.ledger.values import Publication
from common.messages import Seqs, decode_batch
from common.publishing.recipes import BATCHES, SINGLES
from upkeep.replay import SOURCE, failed
from upkeep.seen import Seen

log = logging.getLogger(__name__)

# A message that just moves from a retry queue to its lane is in neither for a moment.
LOOK_AGAIN_S = 1.0
# And one that RabbitMQ could not move, since the lane was away, it tries to move again only after this long
# (dead_letter_worker_publisher_confirm_timeout, 180 s); till then no queue shows it.
DEAD_LETTER_S = 190.0
LOOKS = 3


@dataclass
class InQueues:
    """Which messages have a body in a queue."""

    bodies: int = 0
    unusable: int = 0
    seen: Seen = field(default_factory=Seen)

    def add(self, body: bytes) -> None:
        """A body that waits in a queue."""
        self.bodies += 1
        try:
            batch, seqs = decode_batch(body)
        except BadBody:
            self.unusable += 1
        else:
            self.seen.add(batch.run, seqs)


@dataclass
class RunAudit:
    """What the audit says of a run.

    `differences`: counter -> (what the ledger's counter says, what was counted). `missing`: messages that are neither
    sent nor failed, and in no queue. `unfinished`: its producer ended before all was published, and another can go on:
    `by_gateway`, only a gateway. `queue`: the one that it goes through, if somebody said.
    """

    run: str
    published: int = 0
    queued: int = 0
    sending: int = 0
    sent: int = 0
    failed: int = 0
    differences: dict[str, tuple[int, int]] = field(default_factory=dict)
    moving: bool = False
    retried: int = 0
    missing: int = 0
    repaired: int = 0
    unfinished: bool = False
    by_gateway: bool = False
    queue: str | None = None

    @property
    def right(self) -> bool:
        """Whether the record holds."""
        return not self.differences and self.missing == self.repaired


@dataclass
class Audit:
    """What the audit says of all. `not_at_rest`: why the queues were not compared; empty if they were."""

    runs: list[RunAudit]
    not_at_rest: str
    bodies_in_queues: int = 0
    unusable_bodies: int = 0
    totals: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        """Whether the record holds."""
        return not self.totals and all(run.right for run in self.runs)

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"right": self.right, **asdict(self)}


async def audit(
    broker: Broker, ledger: Ledger, queue: str, run: str | None = None, repair: bool = False
) -> Audit:
    """Audits one run, or all; of those that go through another queue than this one only the counts.

    `repair` settles as failed what is in no queue, for runs that nobody can go on with. Runs that can be resumed, or of
    which nobody said through which queue they go, are repaired only as `run`. Raises UnknownRun; UsageError if not all
    is at rest to repair; Unavailable where the queue is missing.
    """
    why_not = await _not_at_rest(broker, ledger)
    if repair and why_not:
        raise UsageError(f"--repair needs everything at rest, but {why_not}")
    result = Audit([], why_not)
    for name in [run] if run is not None else await ledger.runs():
        try:
            result.runs.append(await _recount(ledger, name))
        except UnknownRun:
            if run is not None:
                raise  # else it has just expired
    if not why_not:
        if run is None:
            result.totals = await _totals(ledger, result.runs)
        await _Comparison(broker, ledger, queue, result, by_name=run is not None).carry_out(repair)
    return result


async def _not_at_rest(broker: Broker, ledger: Ledger) -> str:
    """Who is still at work; empty if nobody is."""
    senders = (await ledger.snapshot()).senders
    if senders:
        return f"{len(senders)} senders are alive or died within the last 10 s"
    if consumers := await broker.consumers():
        return f"{consumers} consumers hold the queues"
    for name in await ledger.runs():
        with contextlib.suppress(UnknownRun):  # it has just expired
            if (await ledger.publication(name)).publishing:
                return f"run {name} is being published, or its producer died within the last 15 s"
    return ""


async def _recount(ledger: Ledger, run: str) -> RunAudit:
    """Compares the counters with the states, some times where they differ: what moves differs each time, and what is
    wrong differs by the same.
    """
    found: list[RunAudit] = []
    while len(found) < LOOKS and (not found or found[-1].moving or found[-1].differences):
        before = await ledger.snapshot(run)
        counted = await ledger.recount(run)
        now = await ledger.snapshot(run)
        moving = any(getattr(before, one.name) != getattr(now, one.name) for one in COUNTERS)
        counters = {name: getattr(now, name) for name in RECOUNTED}
        differences = {} if moving else _differences(counters, counted)
        found.append(
            RunAudit(
                run,
                **counters,
                queued=now.queued,
                retried=now.retried,
                differences=differences,
                moving=moving,
            )
        )
    last = found[-1]
    if any(look.differences != last.differences for look in found):
        last.differences, last.moving = {}, True
    return last


def _differences(counters: dict[str, int], counted: dict[str, int]) -> dict[str, tuple[int, int]]:
    return {name: (counters[name], counted[name]) for name in RECOUNTED if counters[name] != counted[name]}


async def _totals(ledger: Ledger, runs: list[RunAudit]) -> dict[str, tuple[int, int]]:
    """Where the counters of all runs can't be the sum of the runs'. Runs that are gone were settled."""
    now = await ledger.snapshot()
    sums = {name: sum(getattr(run, name) for run in runs) for name in RECOUNTED}
    gone = {name: getattr(now, name) - sums[name] for name in RECOUNTED}
    if (
        gone["sending"] == 0
        and gone["published"] == gone["sent"] + gone["failed"]
        and min(gone.values()) >= 0
    ):
        return {}
    return {name: (getattr(now, name), sums[name]) for name in RECOUNTED if gone[name]}


class _Comparison:
    """Compares the open messages of an audit's runs with what is in the queues."""

    def __init__(self, broker: Broker, ledger: Ledger, queue: str, result: Audit, by_name: bool) -> None:
        self._broker = broker
        self._ledger = ledger
        self._queue = queue
        self._result = result
        self._by_name = by_name
        self._queues = InQueues()
        self._publications: dict[str, Publication] = {}

    async def carry_out(self, repair: bool) -> None:
        """Fills in what is missing; looks twice before it says so; repairs if asked to."""
        await self._look()
        self._result.bodies_in_queues, self._result.unusable_bodies = (
            self._queues.bodies,
            self._queues.unusable,
        )
        for found in self._result.runs:
            await self._unless_gone(found, self._begin(found))
        if any(found.missing for found in self._result.runs):
            await self._look_again(LOOK_AGAIN_S)
        if repair and any(found.missing and found.retried for found in self._result.runs):
            log.warning(
                "looking_again", extra={"in_s": DEAD_LETTER_S, "reason": "retries may be on their way"}
            )
            await self._look_again(DEAD_LETTER_S)
        if repair:
            # The looks took their time: whoever has begun to work since has something in hand.
            if why_not := await _not_at_rest(self._broker, self._ledger):
                raise UsageError(f"--repair needs everything at rest, but {why_not}; nothing was changed")
            for found in self._result.runs:
                await self._unless_gone(found, self._repair(found))

    async def _look(self) -> None:
        async for _, body in self._broker.peek():
            self._queues.add(body)

    async def _look_again(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._look()
        for found in self._result.runs:
            await self._unless_gone(found, self._count(found))

    async def _unless_gone(self, found: RunAudit, step: Coroutine[Any, Any, None]) -> None:
        try:
            await step
        except UnknownRun:  # it has just expired, so it was settled
            found.missing = 0

    async def _begin(self, found: RunAudit) -> None:
        publication = await self._ledger.publication(found.run)
        recipe = _recipe(publication)
        self._publications[found.run] = publication
        found.queue = recipe.get("queue")
        source = recipe.get("source")
        resumable = source not in (None, SOURCE)
        found.by_gateway = source in (SINGLES, BATCHES)
        # Of a gateway's session nobody knows how many messages it will have.
        coming = publication.total or publication.announced
        found.unfinished = resumable and publication.confirmed < coming
        await self._count(found)

    async def _count(self, found: RunAudit) -> None:
        found.missing = 0
        async for seqs in self._missing(found):
            found.missing += seqs.size

    async def _repair(self, found: RunAudit) -> None:
        if found.queue != self._queue and not (self._by_name and found.queue is None):
            return
        async for seqs in self._missing(found):
            await self._ledger.settle(found.run, failed(seqs))
            found.repaired += seqs.size
        publication = self._publications[found.run]
        # What could be gone on with is given up by name only, also where nobody knows how many there will be.
        if self._by_name if found.unfinished else publication.confirmed < publication.total:
            await self._ledger.close_run(found.run)
            found.unfinished = False

    async def _missing(self, found: RunAudit) -> AsyncIterator[Seqs]:
        """The open messages that are in no queue; of a run to be resumed what was confirmed, unless it was named."""
        if found.queue not in (None, self._queue):
            return
        ahead = found.unfinished and not self._by_name
        confirmed = self._publications[found.run].confirmed
        async for seqs in self._ledger.unsettled(found.run):
            mine = seqs[seqs < confirmed] if ahead else seqs
            lost = mine[~self._queues.seen.has(found.run, mine)]
            if lost.size:
                yield lost


def _recipe(publication: Publication) -> dict[str, Any]:
    """What the ledger keeps of how a run's messages were made; empty if nobody said."""
    try:
        recipe = json.loads(publication.recipe)
    except ValueError:
        return {}
    return recipe if isinstance(recipe, dict) else {}
