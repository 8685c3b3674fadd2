"""Takes in messages that are posted one by one, and publishes together those that come together.

While one group is on its way, until the broker has confirmed it, the next one gathers: the busier it is, the larger
the groups, and the less a message costs everybody behind it. A message is accepted once it is confirmed, and only then.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.broker.port import Broker
from common.errors import PublishFailed, SmsimError
from common.ledger.port import Ledger
from common.messages import Batch, Lane, Message
from common.tracking.port import Record, Status, Step, Tracker
from gateway.problems import Problem
from gateway.session import Session
from gateway.withdraw import withdraw

log = logging.getLogger(__name__)

# Messages in one batch at most, and in hand at most: beyond that, 429.
LARGEST_GROUP = 256
MOST_PENDING = 20_000
# A group waits no longer than this for the one before it, nor once it is full.
GATHERING_S = 0.05
# A broker that is not ready by then is away: 503.
READY_WITHIN_S = 1.0
# A publish that fails is tried again for so long; then it is withdrawn.
TRY_FOR_S = 5.0
PAUSE_S = 0.1
RETRY_AFTER_S = 2.0
NOT_KEPT = "the broker is away: nothing was accepted, try again"

Planned = Callable[[Record], Awaitable[None]]


@dataclass(eq=False, slots=True)
class _Item:
    number: str
    text: str
    lane: Lane
    callback_url: str | None
    planned: Planned | None
    accepted: "asyncio.Future[Record]"


class Owing(Protocol):
    """Whoever owes callbacks."""

    async def owe(self, records: Sequence[Record]) -> None:
        """These messages will be published."""

    async def withdraw(self, records: Sequence[Record]) -> None:
        """These were not accepted after all."""


class Intake:
    """Between `open` and `close` it takes messages. `owing` hears of those that have a callback before the publish, and
    again where one is withdrawn.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        tracker: Tracker,
        owing: Owing,
        gateway: str,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._tracker = tracker
        self._owing = owing
        self._gateway = gateway
        self._session: Session | None = None
        self._waiting: list[_Item] = []
        self._some = asyncio.Event()
        self._under_way = 0
        self._go = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._working: asyncio.Task[None] | None = None
        self.pending = 0

    async def open(self) -> None:
        """Begins the work; the session begins with the first message."""
        self._working = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Takes in nothing more; returns when all that was taken in is answered for."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
            for item in self._waiting:
                _fail(item, Problem(503, "the gateway is stopping: try again", retry_after_s=RETRY_AFTER_S))
            await asyncio.gather(*self._tasks)
            if self._session is not None:
                await self._session.close()

    async def accept(
        self,
        number: str,
        text: str,
        lane: Lane,
        callback_url: str | None = None,
        planned: Planned | None = None,
    ) -> Record:
        """The record of the message, once it is safe in the broker. `planned` is awaited with it before the publish.

        Problem 429 where too many wait, 503 where the broker is away: then it was not sent, and never will be. The
        same if this is cancelled, unless a sender has taken the message already.
        """
        if self.pending >= MOST_PENDING:
            raise Problem(429, "too many messages wait for the broker: slow down", retry_after_s=1)
        item = _Item(number, text, lane, callback_url, planned, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        self._some.set()
        if len(self._waiting) >= LARGEST_GROUP:
            self._go.set()
        self.pending += 1
        try:
            return await item.accepted
        finally:
            self.pending -= 1

    async def _work(self) -> None:
        while True:
            await self._some.wait()
            await self._gather()
            try:
                async with asyncio.timeout(READY_WITHIN_S):
                    await self._broker.ready()
            except TimeoutError:
                waiting, self._waiting = self._waiting, []
                for item in waiting:
                    _fail(item, Problem(503, NOT_KEPT, retry_after_s=RETRY_AFTER_S))
                self._some.clear()
                continue
            session = await self._current()
            items = [item for item in self._waiting[:LARGEST_GROUP] if not item.accepted.done()]
            del self._waiting[:LARGEST_GROUP]
            if not self._waiting:
                self._some.clear()
            if items:
                await self._take_in(session, items)

    async def _gather(self) -> None:
        """Until no group is under way, this one is full, or GATHERING_S have passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHERING_S):
                while self._under_way and len(self._waiting) < LARGEST_GROUP:
                    self._go.clear()
                    await self._go.wait()

    async def _current(self) -> Session:
        """The session that seqs come from now."""
        if self._session is None or self._session.old:
            fresh = Session(self._ledger, self._gateway)
            await fresh.begin()
            if self._session is not None:
                self._start(self._session.close())
            self._session = fresh
        return self._session

    async def _take_in(self, session: Session, items: list[_Item]) -> None:
        """Gives a group its seqs, tells the ledger and the tracker, then publishes; that goes on by itself."""
        run = session.run
        first, confirmed = session.take(len(items))
        now_us = time.time_ns() // 1000
        records = [
            Record(
                run=run,
                seq=first + k,
                number=item.number,
                text=item.text,
                accepted_us=now_us,
                lane=item.lane,
                callback_url=item.callback_url,
            )
            for k, item in enumerate(items)
        ]
        jobs: list[Awaitable[None]] = [
            self._ledger.announce(run, first, len(items)),
            self._tracker.open(records),
        ]
        if called_back := [record for record in records if record.callback_url is not None]:
            jobs.append(self._owing.owe(called_back))
        jobs += [item.planned(r) for item, r in zip(items, records, strict=True) if item.planned is not None]
        # Shielded: what is announced must be published or withdrawn, also when the gateway is stopping.
        self._start(self._announce_and_publish(jobs, items, records, confirmed, announced := asyncio.Event()))
        await announced.wait()

    async def _announce_and_publish(
        self,
        jobs: list[Awaitable[None]],
        items: list[_Item],
        records: list[Record],
        confirmed: asyncio.Event,
        announced: asyncio.Event,
    ) -> None:
        self._under_way += 1
        try:
            try:
                await asyncio.gather(*jobs)
            finally:
                announced.set()
            by_lane: dict[Lane, list[int]] = {}
            for k, record in enumerate(records):
                by_lane.setdefault(record.lane, []).append(k)
            await asyncio.gather(
                *(
                    self._publish([items[k] for k in ks], [records[k] for k in ks], lane)
                    for lane, ks in by_lane.items()
                )
            )
        except Exception as error:
            # A server that refuses, or a bug: whoever waits must hear of it, and nothing stay announced for good.
            for item in items:
                _fail(item, error)
            await withdraw(self._ledger, records[0].run, np.array([r.seq for r in records], np.int64))
            if not isinstance(error, SmsimError):
                raise
        finally:
            confirmed.set()
            self._under_way -= 1
            self._go.set()

    async def _publish(self, items: list[_Item], records: list[Record], lane: Lane) -> None:
        """Publishes one lane's part of a group and answers for it."""
        gone = [item.accepted.done() for item in items]
        if not any(gone) and await self._published(records, lane):
            self._answer(items, records)
            return
        if any(gone) and not all(gone):
            # Somebody gave up while this was announced: the others go on without.
            await self._publish(*_only(items, records, gone, False), lane)
            items, records = _only(items, records, gone, True)
        seqs = np.array([record.seq for record in records], np.int64)
        taken = set((await withdraw(self._ledger, records[0].run, seqs)).tolist())
        sent_on = [record.seq in taken for record in records]
        self._answer(*_only(items, records, sent_on, True))
        lost, lost_records = _only(items, records, sent_on, False)
        await self._owing.withdraw(lost_records)
        for item in lost:
            _fail(item, Problem(503, NOT_KEPT, retry_after_s=RETRY_AFTER_S))
        self._tracker.tell([_step(record, Status.FAILED) for record in lost_records])

    async def _published(self, records: list[Record], lane: Lane) -> bool:
        """Publishes until it is confirmed, which gives True, or for TRY_FOR_S."""
        messages = [Message(record.seq, record.number, record.text) for record in records]
        batch = Batch(run=records[0].run, track=True, messages=messages)
        try:
            async with asyncio.timeout(TRY_FOR_S):
                while True:
                    try:
                        await self._broker.publish(batch, lane)
                        return True
                    except PublishFailed as error:
                        log.warning("publish_failed", extra={"reason": str(error), "run": batch.run})
                        await asyncio.sleep(PAUSE_S)
                        await self._broker.ready()
        except TimeoutError:
            return False

    def _answer(self, items: list[_Item], records: list[Record]) -> None:
        self._tracker.tell([_step(record, Status.QUEUED) for record in records])
        for item, record in zip(items, records, strict=True):
            if not item.accepted.done():
                item.accepted.set_result(record)

    def _start(self, job: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _only(
    items: list[_Item], records: list[Record], mask: list[bool], wanted: bool
) -> tuple[list[_Item], list[Record]]:
    at = [k for k, flag in enumerate(mask) if flag is wanted]
    return [items[k] for k in at], [records[k] for k in at]


def _step(record: Record, status: Status) -> Step:
    return Step(
        run=record.run,
        seq=record.seq,
        status=status,
        attempt=0,
        at_us=time.time_ns() // 1000 if status is Status.FAILED else record.accepted_us,
        number=record.number,
        text=record.text,
    )


def _fail(item: _Item, error: Exception) -> None:
    if not item.accepted.done():
        item.accepted.set_exception(error)
