"""Publishes the outbox of one run in the order of its seqs, and confirms up to where the broker has all of it."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np

from common.background import end
from common.backoff import Backoff
from common.broker.confirm import publish_in_parts, publish_until_confirmed
from common.broker.port import Broker
from common.errors import SmsimError
from common.ledger.port import Ledger
from common.ledger.values import Outcomes
from common.messages import Batch, Message, Outcome, fitting
from gateway.acceptance.limits import RelayLimits
from gateway.acceptance.port import Acceptances, LeaseLost, Outbox

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Published:
    """A batch that the broker has not confirmed yet.

    Attributes:
        batch: The batch.
        beyond: The seq after its last message.
        confirmed: Done when the broker has confirmed it.
    """

    batch: Batch
    beyond: int
    confirmed: "asyncio.Future[None]"

    @property
    def is_confirmed(self) -> bool:
        """Whether the broker has it."""
        done = self.confirmed
        return done.done() and not done.cancelled() and done.exception() is None

    @property
    def has_failed(self) -> bool:
        """Whether it must be published again."""
        return self.confirmed.done() and not self.is_confirmed


@dataclass(slots=True, eq=False)
class Room:
    """Room in memory that the relays of a gateway share.

    Attributes:
        messages: How many more messages may be kept in memory.
    """

    messages: int


class Relay:
    """Relays one run until it is closed and relayed, or the lease is lost.

    Messages that this process has just accepted come from memory. The others are read from the outbox.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        broker: Broker,
        store: Acceptances,
        ledger: Ledger,
        limits: RelayLimits,
        room: Room,
    ) -> None:
        self.outbox = outbox
        self.has_ended = False
        self._broker = broker
        self._store = store
        self._ledger = ledger
        self._limits = limits
        self._room = room
        self._accepted = outbox.accepted
        self._simulated = True if outbox.simulated else msgspec.UNSET
        # The next seq to publish, and the messages from there on that are in memory; None for a text that is lost.
        self._next = outbox.relayed
        self._buffer: deque[Message | None] = deque()
        self._is_reading = False
        self._window: deque[_Published] = deque()
        # The broker has all seqs below `relayed`; the store knows of those below `_noted`.
        self.relayed = self._noted = outbox.relayed
        self._noted_s = float("-inf")
        # No more is accepted; and the store knows.
        self._is_closing = self._is_closed = False
        self._publish_backoff = Backoff(limits.pause_s, limits.longest_pause_s)
        self._tell_backoff = Backoff(limits.pause_s, limits.longest_pause_s)
        self._work = asyncio.Event()
        self._progress = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether the broker has all that is accepted."""
        return self.relayed == self._accepted

    def add(self, messages: Sequence[Message]) -> None:
        """Messages that were accepted into the run now."""
        if self.has_ended:
            return
        first = messages[0].seq
        if first == self._next + len(self._buffer) and not self._is_reading:
            self._keep(messages[: max(0, self._room.messages)])
        self._accepted = max(self._accepted, first + len(messages))
        self._work.set()

    def _keep(self, messages: Sequence[Message | None]) -> None:
        self._buffer.extend(messages)
        self._room.messages -= len(messages)

    def note(self, relayed: int) -> None:
        """The store has this progress from another call, which has renewed the lease."""
        self._noted = max(self._noted, relayed)
        self._noted_s = asyncio.get_running_loop().time()

    def close(self) -> None:
        """No more is accepted into the run: the relay ends once all of it is relayed."""
        self._is_closing = True
        self._progress.set()

    async def run(self) -> None:
        """Works until the run is closed and relayed. Raises LeaseLost."""
        tasks = [asyncio.create_task(self._publish()), asyncio.create_task(self._confirm())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.has_ended = True
            await end(tasks)
            self._room.messages += len(self._buffer)
            self._buffer.clear()
            for published in self._window:
                published.confirmed.cancel()

    async def _publish(self) -> None:
        while True:
            self._work.clear()
            if failed := [published for published in self._window if published.has_failed]:
                await self._publish_again(failed)
            elif self._next < self._accepted and len(self._window) < self._limits.window:
                await self._publish_some()
                await asyncio.sleep(0)
            else:
                await self._work.wait()

    async def _publish_some(self) -> None:
        if not self._buffer:
            await self._read()
        count = min(self._limits.batch, len(self._buffer))
        taken = [self._buffer.popleft() for _ in range(count)]
        self._next += count
        self._room.messages += count
        if messages := [message for message in taken if message is not None]:
            outbox = self.outbox
            batch = Batch(
                run=outbox.lease.run, track=outbox.track, simulated=self._simulated, messages=messages
            )
            for part in fitting(batch):
                self._send(_Published(part, part.messages[-1].seq + 1, self._confirmation(part)))
        elif not self._window:
            self.relayed = self._next

    def _send(self, published: _Published) -> None:
        self._window.append(published)
        published.confirmed.add_done_callback(self._on_confirm)

    def _confirmation(self, batch: Batch) -> "asyncio.Future[None]":
        return self._broker.publish(batch, self.outbox.lane)

    async def _publish_again(self, failed: list[_Published]) -> None:
        """Repeats failed publishes until they are confirmed."""
        again = [partial(self._once_more, published) for published in failed]
        try:
            await publish_until_confirmed(self._broker, *again, pause_s=self._limits.pause_s)
        except SmsimError as error:
            await self._pause(error, self._publish_backoff)
        else:
            self._publish_backoff.reset()

    async def _once_more(self, published: _Published) -> None:
        published.confirmed = asyncio.ensure_future(self._in_parts(published.batch))
        published.confirmed.add_done_callback(self._on_confirm)
        await published.confirmed

    async def _in_parts(self, batch: Batch) -> None:
        """Publishes a batch. Messages that are over the broker's size limit by themselves fail."""
        refused = await publish_in_parts(self._confirmation, batch)
        if refused:
            await self._fail([message.seq for message in refused], "messages_too_large")

    def _on_confirm(self, _: "asyncio.Future[None]") -> None:
        while self._window and self._window[0].is_confirmed:
            self.relayed = self._window.popleft().beyond
        if not self._window:
            self.relayed = self._next  # texts that were lost come after the last batch
        if self._is_closing and self.is_idle:
            self._progress.set()
        self._work.set()

    async def _read(self) -> None:
        """Reads a page of the outbox into memory."""
        first = self._next
        self._is_reading = True
        try:
            count = min(self._limits.page, self._accepted - first)
            found = await self._store.read(self.outbox, first, count)
            if None in found:
                await self._lose([first + k for k, message in enumerate(found) if message is None])
            self._keep(found)
        finally:
            self._is_reading = False

    async def _lose(self, seqs: list[int]) -> None:
        """Settles messages as failed whose text is lost."""
        # The records of a run that another gateway has relayed may have expired: that is no loss.
        await self._store.confirm(self.outbox.lease, self._noted)
        await self._fail(seqs, "texts_lost")

    async def _fail(self, seqs: list[int], why: str) -> None:
        """Settles messages as failed that cannot be published."""
        run = self.outbox.lease.run
        log.error(why, extra={"run": run, "messages": len(seqs)})
        failed = np.full(len(seqs), Outcome.FAILED, np.uint8)
        await self._ledger.settle(
            run, Outcomes(np.array(seqs, np.int64), failed, np.zeros(len(seqs), np.int64))
        )

    async def _confirm(self) -> None:
        """Tells the store up to where the broker has all, and renews the lease; until the run is over."""
        while not (self._is_closed and self._noted == self._accepted):
            self._progress.clear()
            if not (self._is_closing and self.is_idle):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._limits.confirm_s):
                        await self._progress.wait()
            if self._is_due():
                await self._tell()

    def _is_due(self) -> bool:
        if self._is_closing and (self.is_idle or not self._is_closed):
            return True
        silent_s = asyncio.get_running_loop().time() - self._noted_s
        has_news = self.relayed > self._noted
        return silent_s >= (self._limits.confirm_s if has_news else self._limits.heartbeat_s)

    async def _tell(self) -> None:
        upto = min(self.relayed, self._noted + self._limits.confirm_messages)
        closes = self._is_closing
        try:
            accepted = await self._store.confirm(self.outbox.lease, upto, closes)
        except LeaseLost:
            raise
        except SmsimError as error:
            await self._pause(error, self._tell_backoff)
            return
        self._tell_backoff.reset()
        self.note(upto)
        self._is_closed |= closes
        if accepted > self._accepted:  # by a call whose answer was lost
            self._accepted = accepted
            self._work.set()

    async def _pause(self, error: SmsimError, backoff: Backoff) -> None:
        if not backoff.begun:
            log.warning("relay_delayed", extra={"run": self.outbox.lease.run, "reason": str(error)})
        await backoff.pause()
