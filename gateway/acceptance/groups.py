"""Publishes messages that were posted one by one, a group at a time, and answers for each: accepted, or withdrawn."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from common.background import retry_forever
from common.broker.port import Broker
from common.errors import LedgerLost, PublishFailed, SmsimError
from common.ledger.port import Ledger
from common.messages import Batch, Lane, fitting
from common.tracking.port import Record, Status, Step, Tracker
from common.web.problems import Problem
from gateway.acceptance.session import Session
from gateway.idempotency.hold import Hold

log = logging.getLogger(__name__)

# A broker that is not ready by then is away: 503.
READY_WITHIN_S = 1.0
# A publish that fails is tried again for so long; then it is withdrawn.
TRY_FOR_S = 5.0
PAUSE_S = 0.1
RETRY_AFTER_S = 2.0
NOT_KEPT = "the broker is away: nothing was accepted, try again"


@dataclass(frozen=True, slots=True)
class Keyed:
    """The Idempotency-Key of a message: the request's hold on it, and what is answered with a record."""

    hold: Hold
    answer: Callable[[Record], bytes]


@dataclass(eq=False, slots=True)
class Item:
    """A message that somebody waits with, until `accepted` is done; if that is cancelled, nobody does any more."""

    number: str
    text: str
    lane: Lane
    callback_url: str | None
    keyed: Keyed | None
    accepted: "asyncio.Future[Record]"

    def fail(self, error: Exception) -> None:
        """Tells who waits."""
        if not self.accepted.done():
            self.accepted.set_exception(error)


Taken = tuple[Item, Record]


class Owing(Protocol):
    """Whoever owes callbacks."""

    async def owe(self, records: Sequence[Record]) -> None:
        """These messages will be published."""

    async def withdraw(self, records: Sequence[Record]) -> None:
        """These were not accepted after all."""


class Groups:
    """`owing` hears of messages that have a callback before the publish, and again where one is withdrawn."""

    def __init__(self, broker: Broker, ledger: Ledger, tracker: Tracker, owing: Owing) -> None:
        self._broker = broker
        self._ledger = ledger
        self._tracker = tracker
        self._owing = owing

    async def take_in(self, session: Session, group: Sequence[Taken], announced: asyncio.Event) -> None:
        """Announces a group, then publishes it; returns when all of it is confirmed or settled, and answered for.

        `announced` is set as soon as the next group may be announced.
        """
        try:
            await self._announce(session, group)
        except Exception as error:  # noqa: BLE001  # whoever waits must hear of it
            announced.set()
            await self._refuse(group, error, to_withdraw=not isinstance(error, LedgerLost))
        else:
            announced.set()
            await asyncio.gather(*(self._publish(part, lane) for lane, part in _by_lane(group)))

    async def publish_again(self, record: Record) -> bool:
        """Publishes a message of a gateway that died, with all that belongs to it; False if the broker is away."""
        await self._keep([record])
        return await self._published([record], record.lane)

    async def _announce(self, session: Session, group: Sequence[Taken]) -> None:
        """Tells the ledger and the tracker of a group, and whoever owes callbacks.

        What is to be answered is written down before there is a record from which another gateway could publish: else
        a key's message might be sent twice.
        """
        records = [record for _, record in group]
        plans = [
            item.keyed.hold.plan(item.keyed.answer(record))
            for item, record in group
            if item.keyed is not None
        ]
        try:
            announcing = self._ledger.announce(session.run, records[0].seq, len(records))
            if plans:
                await asyncio.gather(announcing, *plans)
                await self._keep(records)
            else:
                await asyncio.gather(announcing, self._keep(records))
        except Exception:
            session.spoilt = True  # its next announcement would leave a gap
            raise

    async def _keep(self, records: list[Record]) -> None:
        called_back = [record for record in records if record.callback_url is not None]
        if called_back:
            await asyncio.gather(self._tracker.open(records), self._owing.owe(called_back))
        else:
            await self._tracker.open(records)

    async def _publish(self, part: Sequence[Taken], lane: Lane) -> None:
        """Publishes one lane's part of a group and answers for it. Those whose callers have given up are withdrawn."""
        gone, here = _parted(part)
        try:
            kept = bool(here) and await self._published([record for _, record in here], lane)
        except Exception as error:  # whoever waits must hear, but only what is true of his message
            log.error("publish_broke", exc_info=None if isinstance(error, SmsimError) else error)
            kept = False
        if kept:
            late, here = _parted(here)
            self._answer(here)
            gone += late
        else:
            gone += here
        await self._take_back(gone)

    async def _refuse(self, group: Sequence[Taken], error: Exception, to_withdraw: bool = True) -> None:
        """A server refuses, or there is a bug: nothing of this may stay announced for good."""
        if not isinstance(error, SmsimError):
            log.error("group_broke", exc_info=error)
        for item, _ in group:
            item.fail(error)
        if to_withdraw:
            await self._take_back(group)

    async def _take_back(self, gone: Sequence[Taken]) -> None:
        """Withdraws messages that the broker may hold or not. What a sender has taken already is accepted after all.

        One with a key only while that is ours. After a pause of this gateway it may be another's, who carried the plan
        out and answered. So what is another's is published here too: it is sent once, or not at all if the other one
        has withdrawn it.
        """
        ours, others = await self._told_apart(gone)
        if ours:
            await self._withdraw(ours)
        for lane, part in _by_lane(others):
            for item, _ in part:
                item.fail(
                    Problem(503, "another gateway goes on with this: try again", retry_after_s=RETRY_AFTER_S)
                )
            while not await self._published([record for _, record in part], lane):
                pass

    async def _told_apart(self, gone: Sequence[Taken]) -> tuple[list[Taken], list[Taken]]:
        """Those that are ours to withdraw, and those whose key is another's by now."""

        async def is_ours(item: Item) -> bool:
            return item.keyed is None or await retry_forever(item.keyed.hold.void)

        mine = await asyncio.gather(*(is_ours(item) for item, _ in gone))
        parts: tuple[list[Taken], list[Taken]] = ([], [])
        for one, is_mine in zip(gone, mine, strict=True):
            parts[not is_mine].append(one)
        return parts

    async def _withdraw(self, ours: list[Taken]) -> None:
        seqs, run = np.array([record.seq for _, record in ours], np.int64), ours[0][1].run
        withdrawn = (await retry_forever(lambda: self._ledger.withdraw(run, seqs))).tolist()
        sent_on = [one for one, is_lost in zip(ours, withdrawn, strict=True) if not is_lost]
        self._answer(sent_on)
        lost = [one for one, is_lost in zip(ours, withdrawn, strict=True) if is_lost]
        records = [record for _, record in lost]
        await retry_forever(lambda: self._owing.withdraw(records))
        # Here, and not where the request is answered: that may be over.
        await asyncio.gather(
            *(retry_forever(item.keyed.hold.release) for item, _ in lost if item.keyed is not None),
            *(retry_forever(partial(_stands, item.keyed, record)) for item, record in sent_on if item.keyed),
        )
        for item, _ in lost:
            item.fail(Problem(503, NOT_KEPT, retry_after_s=RETRY_AFTER_S))
        self._tracker.tell([_step(record, Status.FAILED) for record in records])

    async def _published(self, records: list[Record], lane: Lane) -> bool:
        """Publishes until it is confirmed, which gives True, or for TRY_FOR_S."""
        messages = [record.message for record in records]
        batch = Batch(run=records[0].run, track=True, messages=messages)
        try:
            async with asyncio.timeout(TRY_FOR_S):
                while True:
                    try:
                        await asyncio.gather(*(self._broker.publish(part, lane) for part in fitting(batch)))
                        return True
                    except PublishFailed as error:
                        log.warning("publish_failed", extra={"reason": str(error), "run": batch.run})
                        await asyncio.sleep(PAUSE_S)
                        await self._broker.ready()
        except TimeoutError:
            return False

    def _answer(self, taken: Sequence[Taken]) -> None:
        self._tracker.tell([_step(record, Status.QUEUED) for _, record in taken])
        for item, record in taken:
            if not item.accepted.done():
                item.accepted.set_result(record)


def _by_lane(group: Iterable[Taken]) -> list[tuple[Lane, list[Taken]]]:
    parts: dict[Lane, list[Taken]] = {}
    for one in group:
        parts.setdefault(one[1].lane, []).append(one)
    return list(parts.items())


async def _stands(keyed: Keyed, record: Record) -> None:
    await keyed.hold.done(keyed.answer(record))


def _parted(group: Iterable[Taken]) -> tuple[list[Taken], list[Taken]]:
    """Those whose callers have given up, and the others."""
    parts: tuple[list[Taken], list[Taken]] = ([], [])
    for one in group:
        parts[not one[0].accepted.done()].append(one)
    return parts


def _step(record: Record, status: Status) -> Step:
    return Step(
        run=record.run,
        message=record.message,
        status=status,
        attempt=0,
        at_us=time.time_ns() // 1000 if status is Status.FAILED else record.accepted_us,
    )
