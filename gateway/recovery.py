"""Finishes the runs of gateways that died: what they announced and never had confirmed is published again.

Publishing again is safe: the ledger counts each message once. What can't be made again, since its text is forgotten,
is settled as failed, so that every run ends.
"""

import asyncio
import logging

import msgspec
import numpy as np

from common.broker.port import Broker
from common.errors import RunBusy, SmsimError, UnknownRun
from common.ledger.port import PRODUCER_SILENCE_S, Ledger, Resumable
from common.messages import Lane, Message
from common.publishing.publish import Producer
from common.publishing.recipes import Recipe, recipe_of
from common.tracking.port import Tracker
from gateway.listed import Listed
from gateway.session import BATCHES, SINGLES
from gateway.withdraw import withdraw

log = logging.getLogger(__name__)

LOOK_EVERY_S = PRODUCER_SILENCE_S
BATCH_SIZE = 500
PIECE = 10_000


class Recovery:
    """Looks for runs that broke off, and finishes them."""

    def __init__(self, broker: Broker, ledger: Ledger, tracker: Tracker, gateway: str) -> None:
        self._broker = broker
        self._ledger = ledger
        self._tracker = tracker
        self._gateway = gateway
        self._over: set[str] = set()

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            runs = await self._ledger.runs()
            self._over &= set(runs)
            for run in runs:
                if run not in self._over:
                    await self._look_at(run)
            await asyncio.sleep(LOOK_EVERY_S)

    async def finish(self, run: str) -> None:
        """Finishes a run if it broke off. Raises UnknownRun, or RunBusy while its gateway lives."""
        publication = await self._ledger.publication(run)
        made = _recipe(publication.recipe)
        if made is None or (0 < publication.total <= publication.confirmed):
            return
        found = await self._ledger.resume(run, self._gateway)
        try:
            await self._publish_rest(run, made, found)
        except BaseException:
            await self._ledger.leave(run, self._gateway)
            raise

    async def _look_at(self, run: str) -> None:
        try:
            publication = await self._ledger.publication(run)
            made = _recipe(publication.recipe)
            if made is not None and not (0 < publication.total <= publication.confirmed):
                await self.finish(run)
        except RunBusy:
            return
        except UnknownRun:
            pass
        except SmsimError as error:
            log.warning("recovery_failed", extra={"run": run, "reason": str(error)})
            return
        self._over.add(run)

    async def _publish_rest(self, run: str, made: Recipe, found: Resumable) -> None:
        # A session's total is not known: it ends with what was announced. A batch was to be published whole.
        beyond = found.announced if made.source == SINGLES else found.total
        for first in range(found.confirmed, beyond, PIECE):
            seqs = range(first, min(first + PIECE, beyond))
            known = [m for m in await self._tracker.messages(run, seqs) if m is not None]
            if len(known) < len(seqs):
                # What is forgotten, or was never kept, is not sent; nor is what was not even announced then.
                here = np.arange(seqs.start, min(seqs.stop, found.announced))
                await withdraw(self._ledger, run, np.setdiff1d(here, [m.seq for m in known]))
                known = [m for m in known if m.seq < found.announced]
            for (lane, track), messages in (await self._by_way(run, made, known)).items():
                source = Listed(messages, messages[-1].seq + 1)
                await Producer(self._broker, self._ledger).publish(
                    run, source, BATCH_SIZE, lane, messages[0].seq, track=track
                )
            if len(known) < len(seqs):
                break
        await self._ledger.cut(run)
        log.info("run_recovered", extra={"run": run, "messages": max(0, beyond - found.confirmed)})

    async def _by_way(
        self, run: str, made: Recipe, messages: list[Message]
    ) -> dict[tuple[Lane, bool], list[Message]]:
        """The messages by lane, and whether they are tracked."""
        by_way: dict[tuple[Lane, bool], list[Message]] = {}
        for message in messages:
            track = await self._tracker.track(run, message.seq)
            way = (made.lane, False) if track is None else (track.record.lane, True)
            by_way.setdefault(way, []).append(message)
        return by_way


def _recipe(text: str) -> Recipe | None:
    """A gateway's recipe; None for one of somebody else's."""
    try:
        recipe = recipe_of(text)
    except (SmsimError, msgspec.MsgspecError):
        return None
    return recipe if recipe.source in (SINGLES, BATCHES) else None
