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
from common.messages import Batch, Lane, Message, fitting
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


_Taken = tuple[_Item, Record]


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
        if max(self.pending, len(self._waiting)) >= MOST_PENDING:
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

    async def publish_again(self, record: Record) -> None:
        """Publishes a message of a gateway that died, with all that belongs to it. Problem 503, and then it stands."""
        await self._keep([record])
        if not await self._published([record], record.lane):
            raise Problem(503, "the broker is away: try again", retry_after_s=RETRY_AFTER_S)

    async def _work(self) -> None:
        while True:
            await self._some.wait()
            await self._gather()
            try:
                await self._take_some()
            except Exception as error:  # noqa: BLE001  # whoever waits gets an answer, and the next ones a new try
                self._refuse(error)

    async def _take_some(self) -> None:
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await self._broker.ready()
        except TimeoutError:
            raise Problem(503, NOT_KEPT, retry_after_s=RETRY_AFTER_S) from None
        session = await self._current()
        items = [item for item in self._waiting[:LARGEST_GROUP] if not item.accepted.done()]
        del self._waiting[:LARGEST_GROUP]
        if not self._waiting:
            self._some.clear()
        if items:
            await self._take_in(session, items)

    def _refuse(self, error: Exception) -> None:
        """Answers all who wait with an error."""
        waiting, self._waiting = self._waiting, []
        self._some.clear()
        for item in waiting:
            _fail(item, error)

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
        # On its own: what is announced must be published or withdrawn, also when the gateway is stopping.
        announced = asyncio.Event()
        self._start(self._announce_and_publish(session, items, records, confirmed, announced))
        await announced.wait()

    async def _announce_and_publish(
        self,
        session: Session,
        items: list[_Item],
        records: list[Record],
        confirmed: asyncio.Event,
        announced: asyncio.Event,
    ) -> None:
        self._under_way += 1
        try:
            try:
                await self._announce(session, items, records)
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

    async def _announce(self, session: Session, items: list[_Item], records: list[Record]) -> None:
        """Tells the ledger and the tracker of a group, and whoever owes callbacks.

        What is to be answered is written down before there is a record from which another gateway could publish: else
        a key's message might be sent twice.
        """
        plans = [item.planned(r) for item, r in zip(items, records, strict=True) if item.planned is not None]
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

    async def _publish(self, items: list[_Item], records: list[Record], lane: Lane) -> None:
        """Publishes one lane's part of a group and answers for it. Those whose callers have given up are withdrawn."""
        gone, here = _parted(items, records)
        kept = bool(here) and await self._published([record for _, record in here], lane)
        if kept:
            late, here = _parted(*zip(*here, strict=True))
            self._answer(here)
            gone += late
        else:
            gone += here
        if gone:
            await self._take_back(gone)

    async def _take_back(self, gone: list[_Taken]) -> None:
        """Withdraws messages; what a sender has taken already is accepted after all."""
        seqs = np.array([record.seq for _, record in gone], np.int64)
        taken = set((await withdraw(self._ledger, gone[0][1].run, seqs)).tolist())
        self._answer([(item, record) for item, record in gone if record.seq in taken])
        lost = [(item, record) for item, record in gone if record.seq not in taken]
        await self._owing.withdraw([record for _, record in lost])
        for item, _ in lost:
            _fail(item, Problem(503, NOT_KEPT, retry_after_s=RETRY_AFTER_S))
        self._tracker.tell([_step(record, Status.FAILED) for _, record in lost])

    async def _published(self, records: list[Record], lane: Lane) -> bool:
        """Publishes until it is confirmed, which gives True, or for TRY_FOR_S."""
        messages = [Message(record.seq, record.number, record.text) for record in records]
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

    def _answer(self, taken: list[_Taken]) -> None:
        self._tracker.tell([_step(record, Status.QUEUED) for _, record in taken])
        for item, record in taken:
            if not item.accepted.done():
                item.accepted.set_result(record)

    def _start(self, job: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _parted(items: Sequence[_Item], records: Sequence[Record]) -> tuple[list[_Taken], list[_Taken]]:
    """Those whose callers have given up, and the others."""
    parts: tuple[list[_Taken], list[_Taken]] = ([], [])
    for item, record in zip(items, records, strict=True):
        parts[not item.accepted.done()].append((item, record))
    return parts


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
