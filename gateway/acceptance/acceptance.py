"""Accepts messages, one by one or as a run: each is one durable write, and the relay of its run publishes it."""

import asyncio

from common.background import end, supervise
from common.errors import SmsimError
from common.messages import Lane
from common.web.problems import Problem
from gateway.acceptance.groups import Groups, Load
from gateway.acceptance.limits import AcceptanceLimits
from gateway.acceptance.port import NOBODY, Acceptances, Exceptional, Item, Kept, NewRun, Owner
from gateway.acceptance.receipts import (
    Announcer,
    Receipt,
    full,
    receipt_of,
    short_of_memory,
    stopping,
    unanswered,
)
from gateway.acceptance.relays import Relays


class Acceptance:
    """Accepts messages between `open` and `close`."""

    def __init__(
        self,
        store: Acceptances,
        relays: Relays,
        announcer: Announcer,
        limits: AcceptanceLimits | None = None,
    ) -> None:
        self._store = store
        self._relays = relays
        self._announcer = announcer
        self._limits = limits or AcceptanceLimits()
        self._load = Load()
        self._groups: dict[tuple[Lane, Owner], Groups] = {}
        self._tasks: dict[Groups, asyncio.Task[None]] = {}
        self._working: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """Messages that wait for their receipt."""
        return self._load.messages

    @property
    def backlog(self) -> int:
        """Messages in the outboxes of all gateways, as of the last look, about a second ago."""
        return self._relays.backlog

    @property
    def kept(self) -> Kept:
        """What is kept for show, as of the last look."""
        return self._relays.kept

    async def open(self) -> None:
        """Begins the work. A run begins with its first message."""
        self._working = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Accepts no more; returns when the accepted messages are relayed, or left to another gateway."""
        if self._working is None:
            return
        tasks = [self._working, *self._tasks.values()]
        self._working = None
        self._groups.clear()
        self._tasks.clear()
        await end(tasks)
        await self._relays.close()

    def submit(self, lane: Lane, item: Item, owner: Owner = NOBODY) -> "asyncio.Future[Receipt]":
        """Hands a message of an owner in; it costs no task. The future has the receipt once the message is accepted.

        It fails with Problem 422 if the key came with another request, and with Problem 503 if the store does not
        answer or the outboxes are full. Cancel it when the client has gone: a message whose call of the store has not
        begun is left out. Raises Problem 429 at once if too many wait, and 503 while it is not open.
        """
        if self._load.messages >= self._limits.waiting:
            raise Problem(429, "too many messages wait to be accepted: slow down", retry_after_s=1)
        groups = self._groups.get((lane, owner)) or self._begin(lane, owner)
        return groups.submit(item)

    async def accept_run(self, batch: NewRun) -> Receipt:
        """Accepts a run, all of it or nothing. Raises Problem 413, 422 or 503."""
        if self._relays.are_full:
            raise full()
        self.check_memory()
        try:
            async with asyncio.timeout(self._limits.run_answer_s):
                answer = await self._store.accept_run(batch)
        except (TimeoutError, SmsimError):
            raise unanswered() from None
        if isinstance(answer, Exceptional):
            return receipt_of(answer)
        relay = self._relays.start(answer)
        relay.add(batch.messages)
        relay.close()
        if batch.track:
            self._announcer.accepted(
                batch.run, batch.messages, accepted_us=batch.accepted_us, called_back=batch.callback_urls
            )
        return Receipt(batch.run)

    def check_memory(self) -> None:
        """Raises Problem 503 while the store has memory for single messages only."""
        if not self._relays.have_memory_for_runs:
            raise short_of_memory()

    def _begin(self, lane: Lane, owner: Owner) -> Groups:
        if self._working is None:
            raise stopping()
        groups = self._groups[lane, owner] = Groups(
            lane,
            owner,
            store=self._store,
            relays=self._relays,
            announcer=self._announcer,
            limits=self._limits,
            load=self._load,
        )
        self._tasks[groups] = asyncio.create_task(supervise(groups))
        return groups

    async def _work(self) -> None:
        """Relays, and ends the groups that are idle."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervise(self._relays))
            tasks.create_task(self._end_idle())

    async def _end_idle(self) -> None:
        while True:
            await asyncio.sleep(self._limits.look_s)
            idle = [key for key, groups in self._groups.items() if groups.is_idle]
            await end([self._tasks.pop(self._groups.pop(key)) for key in idle])
