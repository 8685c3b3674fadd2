"""Accepts messages, one by one or as a run: each is one durable write, and the relay of its run publishes it."""

import asyncio

from common.background import Worker, end, supervise
from common.errors import SmsimError
from common.messages import Lane
from common.web.problems import Problem
from gateway.acceptance.groups import Groups
from gateway.acceptance.limits import AcceptanceLimits
from gateway.acceptance.port import Acceptances, Exceptional, Item, NewRun
from gateway.acceptance.receipts import Announcer, Receipt, full, receipt_of, unanswered
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
        self._lanes = {
            lane: Groups(lane, store=store, relays=relays, announcer=announcer, limits=self._limits)
            for lane in Lane
        }
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pending(self) -> int:
        """Messages that wait for their receipt."""
        return sum(groups.pending for groups in self._lanes.values())

    @property
    def backlog(self) -> int:
        """Messages in the outboxes of all gateways, as of the last look, about a second ago."""
        return self._relays.backlog

    async def open(self) -> None:
        """Begins the work. A run begins with its first message."""
        workers: list[Worker] = [*self._lanes.values(), self._relays]
        self._tasks = [asyncio.create_task(supervise(worker)) for worker in workers]

    async def close(self) -> None:
        """Accepts no more; returns when the accepted messages are relayed, or left to another gateway."""
        await end(self._tasks)
        await self._relays.close()

    def submit(self, lane: Lane, item: Item) -> "asyncio.Future[Receipt]":
        """Hands a message in; it costs no task. The future has the receipt once the message is accepted.

        It fails with Problem 422 if the key came with another request, and with Problem 503 if the store does not
        answer or the outboxes are full. Cancel it when the client has gone: a message whose call of the store has not
        begun is left out. Raises Problem 429 at once if too many wait.
        """
        if self.pending >= self._limits.waiting:
            raise Problem(429, "too many messages wait to be accepted: slow down", retry_after_s=1)
        return self._lanes[lane].submit(item)

    async def accept_run(self, batch: NewRun) -> Receipt:
        """Accepts a run, all of it or nothing. Raises Problem 422 or 503."""
        if self._relays.are_full:
            raise full()
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
