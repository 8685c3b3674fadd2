"""Compares the open messages of some runs with the bodies in the queues, and repairs what is in no queue.

RabbitMQ itself moves a body to the rejected queue where a policy of its operator says so (message-ttl, max-length,
delivery-limit). Its messages are not lost: `smsim replay --rejected` sends them.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

from common.broker.port import Broker
from common.broker.topology import Topology
from common.errors import BadBody, UnknownRun
from common.ledger.port import Ledger
from common.ledger.values import Publication
from common.messages import Seqs, decode_batch
from common.publishing.recipes import BATCHES, SINGLES
from upkeep.findings import Audit, RunAudit
from upkeep.replay import SOURCE, failed
from upkeep.seen import Seen

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """When the queues are looked at again, in seconds.

    Attributes:
        moving_s: A message that moves from a retry queue to its lane is in neither of them for a moment.
        dead_letter_s: RabbitMQ tries again after this time to move a message that it could not move, and until then no
            queue shows it (dead_letter_worker_publisher_confirm_timeout, 180 s).
    """

    moving_s: float = 1.0
    dead_letter_s: float = 190.0


TIMING = Timing()


@dataclass
class InQueues:
    """The messages that have a body in a queue.

    Attributes:
        unusable: How many of them are no batch.
    """

    bodies: int = 0
    unusable: int = 0
    seen: Seen = field(default_factory=Seen)

    def add(self, body: bytes) -> None:
        """Adds a body that is in a queue."""
        self.bodies += 1
        try:
            batch, seqs = decode_batch(body)
        except BadBody:
            self.unusable += 1
        else:
            self.seen.add(batch.run, seqs)


class Comparison:
    """Finds the open messages that are in no queue.

    `queue` is the queue that is looked at. `by_name`: the audit is of one run, which its user has named.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        queue: str,
        result: Audit,
        *,
        by_name: bool,
        timing: Timing = TIMING,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._queue = queue
        self._result = result
        self._by_name = by_name
        self._timing = timing
        self._queues = InQueues()
        self._rejected = InQueues()
        self._publications: dict[str, Publication] = {}

    async def compare(self, before_repair: bool) -> None:
        """Fills in what is missing. Looks twice before it reports a message as missing; longer before a repair."""
        await self._look()
        self._result.bodies_in_queues = self._queues.bodies
        self._result.unusable_bodies = self._queues.unusable
        self._result.rejected_bodies = self._rejected.bodies
        for found in self._result.runs:
            await self._unless_gone(found, self._begin(found))
        if any(found.missing for found in self._result.runs):
            await self._look_again(self._timing.moving_s)
        if before_repair and any(found.missing and found.retried for found in self._result.runs):
            why = "retries may be on their way between two queues"
            log.warning("looking_again", extra={"in_s": self._timing.dead_letter_s, "reason": why})
            await self._look_again(self._timing.dead_letter_s)

    async def repair(self) -> None:
        """Settles what is missing as failed, and closes runs that nobody resumes."""
        for found in self._result.runs:
            await self._unless_gone(found, self._repair(found))

    async def _look(self) -> None:
        rejected = Topology(self._queue).rejected.name
        async for queue, body in self._broker.peek():
            (self._rejected if queue == rejected else self._queues).add(body)

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
        self._publications[found.run] = publication
        recipe = _recipe(publication)
        source = recipe.get("source")
        found.queue = recipe.get("queue")
        found.by_gateway = source in (SINGLES, BATCHES)
        resumable = source not in (None, SOURCE)
        # The total of a gateway's run is not known before it is closed.
        expected = publication.total or publication.announced
        found.unfinished = resumable and publication.confirmed < expected
        await self._count(found)

    async def _count(self, found: RunAudit) -> None:
        found.missing = found.rejected = 0
        async for seqs in self._unqueued(found):
            rejected = int(self._rejected.seen.has(found.run, seqs).sum())
            found.rejected += rejected
            found.missing += seqs.size - rejected

    async def _repair(self, found: RunAudit) -> None:
        if found.queue != self._queue and not (self._by_name and found.queue is None):
            return
        async for seqs in self._unqueued(found):
            missing = seqs[~self._rejected.seen.has(found.run, seqs)]
            if missing.size:
                await self._ledger.settle(found.run, failed(missing))
                found.repaired += missing.size
        publication = self._publications[found.run]
        # A run that can be resumed, or whose total is not known, is given up only by name.
        give_up = self._by_name if found.unfinished else publication.confirmed < publication.total
        if give_up:
            await self._ledger.close_run(found.run)
            found.unfinished = False

    async def _unqueued(self, found: RunAudit) -> AsyncIterator[Seqs]:
        """The open messages that are in no lane and no retry queue.

        Of a run that can be resumed, those that were confirmed, unless the user has named the run.
        """
        if found.queue not in (None, self._queue):
            return
        only_confirmed = found.unfinished and not self._by_name
        confirmed = self._publications[found.run].confirmed
        async for seqs in self._ledger.unsettled(found.run):
            candidates = seqs[seqs < confirmed] if only_confirmed else seqs
            unqueued = candidates[~self._queues.seen.has(found.run, candidates)]
            if unqueued.size:
                yield unqueued


def _recipe(publication: Publication) -> dict[str, Any]:
    """The recipe of a run's messages; empty if the ledger has none."""
    try:
        recipe = json.loads(publication.recipe)
    except ValueError:
        return {}
    return recipe if isinstance(recipe, dict) else {}
