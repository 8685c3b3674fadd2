"""Finishes the runs of gateways that died: what they announced and never had confirmed is published again.

Publishing again is safe: the ledger counts each message once. What can't be made again, since its text is forgotten,
is settled as failed, so that every run ends.
"""

import asyncio
import logging
from collections import Counter

import msgspec
import numpy as np

from common.broker.port import Broker
from common.errors import PublishFailed, RunBusy, SmsimError, UnknownRun
from common.ledger.heartbeat import producer_heartbeat
from common.ledger.port import TIMING, Ledger
from common.ledger.values import Publication, Resumable
from common.messages import Batch, Lane, Message, fitting
from common.publishing.recipes import BATCHES, SINGLES, Recipe, recipe_of
from common.tracking.port import Tracker

log = logging.getLogger(__name__)

# A run is taken over once it was silent at so many looks, one after another. One look would not do: after an outage of
# Redis those who live are silent too, until they have been heard again.
LOOK_EVERY_S = TIMING.producer_silence_s / 3
SILENT_LOOKS = 4
# An answer that takes longer means that Redis was away: the looks before count no more.
PROMPT_S = 2.0
BATCH_SIZE = 500
PIECE = 10_000
PAUSE_S = 0.2


class Recovery:
    """Looks for runs that broke off, and finishes them; those that go through another queue than `queue` are left to
    the gateways of that one.
    """

    def __init__(
        self, broker: Broker, ledger: Ledger, tracker: Tracker, gateway: str, queue: str | None = None
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._tracker = tracker
        self._gateway = gateway
        self._queue = queue
        self._over: set[str] = set()
        # At how many looks in a row each run was silent.
        self._silent: Counter[str] = Counter()

    async def run(self) -> None:
        """Works until cancelled."""
        self._silent.clear()
        while True:
            asked_s = _now_s()
            runs = await self._ledger.open_runs()
            self._heard_from_ledger(asked_s)
            listed = set(runs)
            self._over &= listed
            for gone in self._silent.keys() - listed:
                del self._silent[gone]
            for run in runs:
                if run not in self._over:
                    await self._look_at(run)
            await asyncio.sleep(LOOK_EVERY_S)

    async def finish(self, run: str) -> None:
        """Finishes a run if it broke off. Raises UnknownRun; RunBusy while its gateway lives, and where it goes through
        another queue.

        Right after an outage of Redis a living one may look dead here: call this only when the request that it served
        has surely ended.
        """
        publication = await self._ledger.publication(run)
        made = _recipe(publication.recipe)
        if made is None or _is_over(publication):
            return
        if not self._is_ours(made):
            raise RunBusy(f"run {run} goes through the queue {made.queue}: a gateway of that one finishes it")
        found = await self._ledger.resume(run, self._gateway)
        try:
            async with producer_heartbeat(self._ledger, run):
                await self._publish_rest(run, made, found)
        except BaseException:
            await self._ledger.leave(run, self._gateway)
            raise

    async def _look_at(self, run: str) -> None:
        asked_s = _now_s()
        try:
            publication = await self._ledger.publication(run)
            self._heard_from_ledger(asked_s)
            made = _recipe(publication.recipe)
            if made is not None and self._is_ours(made) and not _is_over(publication):
                if not self._seems_dead(run, publication):
                    return
                await self.finish(run)
        except RunBusy:
            return
        except UnknownRun:
            pass
        except SmsimError as error:
            log.warning("recovery_failed", extra={"run": run, "reason": str(error)})
            return
        del self._silent[run]
        self._over.add(run)

    def _is_ours(self, made: Recipe) -> bool:
        return made.queue in (None, self._queue) or self._queue is None

    def _heard_from_ledger(self, asked_s: float) -> None:
        if _now_s() - asked_s > PROMPT_S:
            self._silent.clear()

    def _seems_dead(self, run: str, publication: Publication) -> bool:
        """Whether nothing was heard of its producer for long enough, while the ledger could hear."""
        if publication.publishing:
            del self._silent[run]
            return False
        self._silent[run] += 1
        return self._silent[run] >= SILENT_LOOKS

    async def _publish_rest(self, run: str, made: Recipe, found: Resumable) -> None:
        # A session's total is not known: it ends with what was announced. A batch was to be published whole, and is, as
        # long as all texts are known; from there on only what was announced counts.
        announced = found.announced
        beyond = announced if made.source == SINGLES else found.total
        for first in range(found.confirmed, beyond, PIECE):
            seqs = range(first, min(first + PIECE, beyond))
            known = [m for m in await self._tracker.messages(run, seqs) if m is not None]
            if len(known) < len(seqs):
                beyond = announced
                seqs = range(first, min(seqs.stop, beyond))
                known = [m for m in known if m.seq in seqs]
                forgotten = np.setdiff1d(np.arange(first, seqs.stop), [m.seq for m in known])
                await self._ledger.withdraw(run, forgotten)
            elif seqs.stop > announced:
                await self._ledger.announce(run, announced, seqs.stop - announced)
                announced = seqs.stop
            await self._publish(await self._batches(run, made, known))
            # Only now, with the batches of every way safe in the broker: who goes on after us begins here.
            await self._ledger.confirm(run, seqs.stop)
            if seqs.stop >= beyond:
                break
        await self._ledger.close_run(run)
        log.info("run_recovered", extra={"run": run, "messages": max(0, beyond - found.confirmed)})

    async def _batches(self, run: str, made: Recipe, messages: list[Message]) -> list[tuple[Batch, Lane]]:
        """The messages by lane, and by whether they are tracked, in batches that fit a body."""
        by_way: dict[tuple[Lane, bool], list[Message]] = {}
        records = await self._tracker.records(run, [message.seq for message in messages])
        for message, record in zip(messages, records, strict=True):
            way = (made.lane, False) if record is None else (record.lane, True)
            by_way.setdefault(way, []).append(message)
        return [
            (part, lane)
            for (lane, tracked), way in by_way.items()
            for i in range(0, len(way), BATCH_SIZE)
            for part in fitting(Batch(run=run, track=tracked, messages=way[i : i + BATCH_SIZE]))
        ]

    async def _publish(self, batches: list[tuple[Batch, Lane]]) -> None:
        """Publishes until the broker has confirmed all of them."""
        while batches:
            confirms = [self._broker.publish(batch, lane) for batch, lane in batches]
            results = await asyncio.gather(*confirms, return_exceptions=True)
            errors = [error for error in results if error is not None]
            for error in errors:
                if not isinstance(error, PublishFailed):
                    raise error
            batches = [batch for batch, error in zip(batches, results, strict=True) if error is not None]
            if batches:
                log.warning("publish_failed", extra={"reason": str(errors[0]), "run": batches[0][0].run})
                await asyncio.sleep(PAUSE_S)
                await self._broker.ready()


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _is_over(publication: Publication) -> bool:
    return 0 < publication.total <= publication.confirmed


def _recipe(text: str) -> Recipe | None:
    """A gateway's recipe; None for one of somebody else's."""
    try:
        recipe = recipe_of(text)
    except (SmsimError, msgspec.MsgspecError):
        return None
    return recipe if recipe.source in (SINGLES, BATCHES) else None
