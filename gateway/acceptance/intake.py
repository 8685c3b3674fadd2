"""Takes in messages that are posted one by one, and publishes together those that come together.

While one group is on its way, until the broker has confirmed it, the next one gathers: the busier it is, the larger
the groups, and the less a message costs everybody behind it. A message is accepted once it is confirmed, and only then.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Sequence

from common.background import end, finish_within
from common.broker.port import Broker
from common.ledger.port import Ledger
from common.messages import Lane, Message
from common.tracking.port import Record, Tracker
from common.web.problems import Problem
from gateway.acceptance.groups import (
    NOT_KEPT,
    READY_WITHIN_S,
    RETRY_AFTER_S,
    Groups,
    Item,
    Keyed,
    Owing,
    Taken,
)
from gateway.acceptance.session import Session

# Messages in one batch at most, and in hand at most: beyond that, 429.
LARGEST_GROUP = 256
MOST_PENDING = 20_000
# A group waits no longer than this for the one before it, nor once it is full.
GATHERING_S = 0.05


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
        queue: str | None = None,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._groups = Groups(broker, ledger, tracker, owing)
        self._gateway = gateway
        self._queue = queue
        self._session: Session | None = None
        self._waiting: list[Item] = []
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
        """Takes in nothing more; returns when all that was taken in is answered for, and the run is over.

        If a server is away, it returns soon all the same: another gateway finishes the run then.
        """
        if self._working is not None:
            await end([self._working])
            for item in self._waiting:
                item.fail(Problem(503, "the gateway is stopping: try again", retry_after_s=RETRY_AFTER_S))
            await finish_within({*self._tasks, asyncio.create_task(self._close_session())})

    async def _close_session(self) -> None:
        await asyncio.gather(*self._tasks)
        if self._session is not None:
            await self._session.close()

    async def accept(
        self,
        number: str,
        text: str,
        lane: Lane,
        callback_url: str | None = None,
        keyed: Keyed | None = None,
    ) -> Record:
        """The record of the message, once it is safe in the broker. With a key its answer is planned before.

        Problem 429 where too many wait, 503 where the broker is away: then it was not sent, and never will be. The
        same if this is cancelled, unless a sender has taken the message already.
        """
        if max(self.pending, len(self._waiting)) >= MOST_PENDING:
            raise Problem(429, "too many messages wait for the broker: slow down", retry_after_s=1)
        item = Item(number, text, lane, callback_url, keyed, asyncio.get_running_loop().create_future())
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
        if not await self._groups.publish_again(record):
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
            item.fail(error)

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
            fresh = Session(self._ledger, self._gateway, self._queue)
            await fresh.begin()
            if self._session is not None:
                self._start(self._session.close())
            self._session = fresh
        return self._session

    async def _take_in(self, session: Session, items: Sequence[Item]) -> None:
        """Gives a group its seqs, tells the ledger and the tracker, then publishes; that goes on by itself."""
        run = session.run
        first, confirmed = session.take(len(items))
        now_us = time.time_ns() // 1000
        group = [
            (
                item,
                Record(
                    run=run,
                    message=Message(seq=first + k, to=item.number, text=item.text),
                    accepted_us=now_us,
                    lane=item.lane,
                    callback_url=item.callback_url,
                ),
            )
            for k, item in enumerate(items)
        ]
        # On its own: what is announced must be published or withdrawn, also when the gateway is stopping.
        announced = asyncio.Event()
        self._start(self._carry_out(session, group, confirmed, announced))
        await announced.wait()

    async def _carry_out(
        self, session: Session, group: Sequence[Taken], confirmed: asyncio.Event, announced: asyncio.Event
    ) -> None:
        self._under_way += 1
        try:
            await self._groups.take_in(session, group, announced)
            confirmed.set()  # not if it broke off: whoever finishes the run then begins there
        except Exception:
            session.spoilt = True
            raise
        finally:
            announced.set()
            self._under_way -= 1
            self._go.set()

    def _start(self, job: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
