"""Audits the ledger: recounts every message's state, and at rest compares with what is in the queues."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.broker.port import Broker
from common.errors import BadBody, UsageError
from common.ledger.masks import PIECE_MESSAGES, by_piece
from common.ledger.port import Ledger, Publication, Snapshot
from common.messages import Seqs, decode_batch
from upkeep.replay import SOURCE, failed

COUNTED = ("published", "sending", "sent", "failed")
# A message that just moves from a retry queue to its lane is in neither for a moment.
LOOK_AGAIN_S = 1.0
TRIES_WHILE_MOVING = 5


class InQueues:
    """Which messages have a body in a queue: a bit each, by run and piece."""

    def __init__(self) -> None:
        self.bodies = 0
        self.unusable = 0
        self._bits: dict[tuple[str, int], NDArray[np.bool_]] = {}

    def add(self, body: bytes) -> None:
        """A body that waits in a queue."""
        self.bodies += 1
        try:
            batch, seqs = decode_batch(body)
        except BadBody:
            self.unusable += 1
            return
        for piece, at in by_piece(seqs):
            bits = self._bits.setdefault((batch.run, piece), np.zeros(PIECE_MESSAGES, np.bool_))
            bits[seqs[at] - piece * PIECE_MESSAGES] = True

    def without(self, run: str, seqs: Seqs) -> Seqs:
        """Those of some seqs of one piece that are in no queue."""
        piece = int(seqs[0]) // PIECE_MESSAGES
        bits = self._bits.get((run, piece))
        return seqs if bits is None else seqs[~bits[seqs - piece * PIECE_MESSAGES]]


@dataclass
class RunAudit:
    """What the audit says of a run.

    `differences`: counter -> (what the ledger's counter says, what was counted). `missing`: messages that are neither
    sent nor failed, and in no queue. `unfinished`: its producer ended before all was published, and can be resumed.
    """

    run: str
    published: int = 0
    queued: int = 0
    sending: int = 0
    sent: int = 0
    failed: int = 0
    differences: dict[str, tuple[int, int]] = field(default_factory=dict)
    moving: bool = False
    missing: int = 0
    repaired: int = 0
    unfinished: bool = False

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


async def audit(broker: Broker, ledger: Ledger, run: str | None = None, repair: bool = False) -> Audit:
    """Audits one run, or all. `repair` settles as failed what is in no queue, for runs that nobody can go on with;
    with `run` also for that one, resumable or not. Raises UnknownRun, and UsageError if not all is at rest to repair.
    """
    names = [run] if run is not None else await ledger.runs()
    why_not = await _not_at_rest(broker, ledger)
    if repair and why_not:
        raise UsageError(f"--repair needs everything at rest, but {why_not}")
    result = Audit([await _recount(ledger, name) for name in names], why_not)
    if run is None:
        result.totals = await _totals(ledger, result.runs)
    if not why_not:
        await _compare(broker, ledger, result, repair, by_name=run is not None)
    return result


async def _not_at_rest(broker: Broker, ledger: Ledger) -> str:
    """Who is still at work; empty if nobody is."""
    senders = (await ledger.snapshot()).senders
    if senders:
        return f"{len(senders)} senders are alive or died within the last 10 s"
    if consumers := await broker.consumers():
        return f"{consumers} consumers hold the queues"
    for name in await ledger.runs():
        if (await ledger.publication(name)).publishing:
            return f"run {name} is being published, or its producer died within the last 15 s"
    return ""


async def _recount(ledger: Ledger, run: str) -> RunAudit:
    """Compares the counters with the states. While both move there is nothing to compare: it tries some times."""
    for _ in range(TRIES_WHILE_MOVING):
        before = await ledger.snapshot(run)
        counted = await ledger.recount(run)
        after = await ledger.snapshot(run)
        moving = any(getattr(before, name) != getattr(after, name) for name in COUNTED)
        if not moving:
            break
    found = RunAudit(
        run, after.published, after.queued, after.sending, after.sent, after.failed, moving=moving
    )
    if not moving:
        found.differences = _differences({name: getattr(after, name) for name in COUNTED}, counted)
    return found


def _differences(counters: dict[str, int], counted: dict[str, int]) -> dict[str, tuple[int, int]]:
    return {name: (counters[name], counted[name]) for name in COUNTED if counters[name] != counted[name]}


async def _totals(ledger: Ledger, runs: list[RunAudit]) -> dict[str, tuple[int, int]]:
    """Where the counters of all runs can't be the sum of the runs'. Runs that are gone were settled."""
    if any(run.moving for run in runs):
        return {}
    now: Snapshot = await ledger.snapshot()
    sums = {name: sum(getattr(run, name) for run in runs) for name in COUNTED}
    gone = {name: getattr(now, name) - sums[name] for name in COUNTED}
    if (
        gone["sending"] == 0
        and gone["published"] == gone["sent"] + gone["failed"]
        and min(gone.values()) >= 0
    ):
        return {}
    return {name: (getattr(now, name), sums[name]) for name in COUNTED if gone[name]}


async def _compare(broker: Broker, ledger: Ledger, result: Audit, repair: bool, by_name: bool) -> None:
    """Looks for messages that are in no queue, and settles them as failed if asked to."""
    queues = await _look_into(broker, InQueues())
    result.bodies_in_queues, result.unusable_bodies = queues.bodies, queues.unusable
    publications = {found.run: await ledger.publication(found.run) for found in result.runs}
    for second_look in (False, True):
        for found in result.runs:
            publication = publications[found.run]
            found.unfinished = publication.confirmed < publication.total and _resumable(publication)
            found.missing = 0
            async for seqs in _missing(ledger, found, publication, queues, by_name):
                found.missing += seqs.size
        if second_look or not any(found.missing for found in result.runs):
            break
        await asyncio.sleep(LOOK_AGAIN_S)
        await _look_into(broker, queues)
    if not repair:
        return
    for found in result.runs:
        publication = publications[found.run]
        async for seqs in _missing(ledger, found, publication, queues, by_name):
            await ledger.settle(found.run, failed(seqs))
            found.repaired += seqs.size
        if publication.confirmed < publication.total and (by_name or not found.unfinished):
            await ledger.cut(found.run)
            found.unfinished = False


async def _missing(
    ledger: Ledger, found: RunAudit, publication: Publication, queues: InQueues, by_name: bool
) -> AsyncIterator[Seqs]:
    """The unsettled seqs that are in no queue; of a run to be resumed only what was confirmed, unless it was named."""
    ahead = found.unfinished and not by_name
    async for seqs in ledger.unsettled(found.run):
        mine = seqs[seqs < publication.confirmed] if ahead else seqs
        if mine.size and (lost := queues.without(found.run, mine)).size:
            yield lost


async def _look_into(broker: Broker, queues: InQueues) -> InQueues:
    async for _, body in broker.peek():
        queues.add(body)
    return queues


def _resumable(publication: Publication) -> bool:
    """Whether a producer can go on with the run: somebody began it, and it is no replay."""
    try:
        recipe = json.loads(publication.recipe)
    except ValueError:
        return False
    return isinstance(recipe, dict) and recipe.get("source") not in (None, SOURCE)
