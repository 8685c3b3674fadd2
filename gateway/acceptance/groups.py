"""Accepts the single messages of one owner and lane.

Those that come while a call of the store is under way go together in the next one.
"""

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass

from common.errors import SmsimError
from common.messages import Lane, Message, new_run_id
from common.web.problems import Problem
from gateway.acceptance.limits import AcceptanceLimits
from gateway.acceptance.port import (
    NOBODY,
    Acceptances,
    Exceptional,
    Group,
    GroupAnswer,
    Item,
    LeaseLost,
    Owner,
)
from gateway.acceptance.receipts import Announcer, Receipt, away, receipt_of, stopping, unanswered
from gateway.acceptance.relay import Relay
from gateway.acceptance.relays import Relays

log = logging.getLogger(__name__)

# Random bytes in the id of a run. The ids are not checked for uniqueness.
UNIQUE_BYTES = 6


@dataclass(slots=True, eq=False)
class _Waiting:
    """A message that a client waits for.

    Attributes:
        item: The message.
        receipt: Done once it is accepted or refused; cancelled by a client that has gone.
    """

    item: Item
    receipt: "asyncio.Future[Receipt]"

    def answer(self, exceptional: Exceptional) -> None:
        """Answers for a message that was not accepted as a new one."""
        try:
            receipt = receipt_of(exceptional)
        except Problem as problem:
            self.fail(problem)
        else:
            if not self.receipt.done():
                self.receipt.set_result(receipt)

    def fail(self, error: Exception) -> None:
        """Tells the client, if it is still there."""
        if not self.receipt.done():
            self.receipt.set_exception(error)


@dataclass(slots=True)
class Load:
    """How much all groups of a gateway have in hand.

    Attributes:
        messages: Messages that wait for their receipt.
    """

    messages: int = 0


class _OpenRun:
    """The run that messages are accepted into."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.calls = 0
        self.accepted = 0
        self._opened_s = time.monotonic()

    def is_old(self, limits: AcceptanceLimits) -> bool:
        """Whether it is time for another: the ledger forgets runs, not parts of them."""
        age_s = time.monotonic() - self._opened_s
        return self.accepted >= limits.rotate_messages or age_s >= limits.rotate_s


class Groups:
    """Accepts messages of one owner while `run` works. One call of the store is under way at a time."""

    def __init__(
        self,
        lane: Lane,
        owner: Owner = NOBODY,
        *,
        store: Acceptances,
        relays: Relays,
        announcer: Announcer,
        limits: AcceptanceLimits,
        load: Load,
    ) -> None:
        self._lane = lane
        self._owner = owner
        self._load = load
        self._used_s = time.monotonic()
        self._store = store
        self._relays = relays
        self._announcer = announcer
        self._limits = limits
        self._waiting: deque[_Waiting] = deque()
        self._group: list[_Waiting] = []
        self._some = asyncio.Event()
        self._open: _OpenRun | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no message has come for so long that its run should end."""
        if self._waiting or self._group:
            return False
        return time.monotonic() - self._used_s >= self._limits.idle_s

    def submit(self, item: Item) -> "asyncio.Future[Receipt]":
        """Hands a message in."""
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, receipt))
        self._load.messages += 1
        self._some.set()
        return receipt

    async def run(self) -> None:
        """Accepts until cancelled. The outcome of a call that is under way then is unknown."""
        try:
            while True:
                await self._some.wait()
                await self._accept_some()
        finally:
            self._refuse_group(unanswered())
            self._refuse_waiting(stopping())
            self._abandon()

    async def _accept_some(self) -> None:
        try:
            async with asyncio.timeout(self._limits.answer_s):
                await self._accept()
        except (TimeoutError, SmsimError) as error:
            waiting = len(self._waiting) + len(self._group)
            reason = str(error) or f"no answer within {self._limits.answer_s:g} s"
            log.warning("not_accepted", extra={"messages": waiting, "reason": reason})
            self._abandon()
            self._refuse_group(unanswered())
            self._refuse_waiting(away())
        except Exception as error:
            log.error("acceptance_broke", exc_info=error)
            self._abandon()
            self._refuse_group(error)

    async def _accept(self) -> None:
        """Accepts the messages that wait, as many as go in one call."""
        while True:
            run = await self._current()
            if not self._group:
                self._group = self._take()
            if not self._group:
                return
            relayed = run.relay.relayed
            group = Group(
                number=run.calls + 1,
                items=[waiting.item for waiting in self._group],
                accepted_us=time.time_ns() // 1000,
                relayed=relayed,
            )
            try:
                answer = await self._store.accept(run.relay.outbox, group)
            except LeaseLost as error:  # and nothing of the group was accepted
                log.warning("lease_lost", extra={"run": run.relay.outbox.lease.run, "reason": str(error)})
                self._abandon()
                continue
            run.calls += 1
            run.relay.note(relayed)
            self._answer(run, group, answer)
            return

    def _take(self) -> list[_Waiting]:
        """The next group, without those whose clients have gone."""
        count = min(self._limits.group, len(self._waiting))
        taken = [self._waiting.popleft() for _ in range(count)]
        if not self._waiting:
            self._some.clear()
        group = [waiting for waiting in taken if not waiting.receipt.done()]
        self._load.messages -= len(taken) - len(group)
        return group

    async def _current(self) -> _OpenRun:
        if self._open is not None and (self._open.is_old(self._limits) or self._open.relay.has_ended):
            self._abandon()
        if self._open is None:
            outbox = await self._store.open(new_run_id(UNIQUE_BYTES), self._lane, self._owner)
            self._open = _OpenRun(self._relays.start(outbox))
        return self._open

    def _answer(self, run: _OpenRun, group: Group, answer: GroupAnswer) -> None:
        """Gives the accepted messages to the relay, and the receipts to the clients."""
        name, seq = run.relay.outbox.lease.run, answer.first
        messages: list[Message] = []
        called_back: list[int] = []
        for at, waiting in enumerate(self._group):
            if (exceptional := answer.exceptions.get(at)) is not None:
                waiting.answer(exceptional)
                continue
            item = waiting.item
            messages.append(item.message(seq))
            if item.callback_url is not None:
                called_back.append(seq)
            if not waiting.receipt.done():
                waiting.receipt.set_result(Receipt(f"{name}.{seq}"))
            seq += 1
        self._load.messages -= len(self._group)
        self._group = []
        self._used_s = time.monotonic()
        if messages:
            run.accepted += len(messages)
            run.relay.add(messages)
            self._announcer.accepted(name, messages, accepted_us=group.accepted_us, called_back=called_back)

    def _abandon(self) -> None:
        """Stops accepting into the open run; its relay closes it and relays the rest."""
        if self._open is not None:
            self._open.relay.close()
            self._open = None

    def _refuse_group(self, error: Exception) -> None:
        group, self._group = self._group, []
        self._load.messages -= len(group)
        for waiting in group:
            waiting.fail(error)

    def _refuse_waiting(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, deque()
        self._load.messages -= len(waiting)
        self._some.clear()
        for one in waiting:
            one.fail(error)
