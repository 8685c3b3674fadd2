"""The inbox of the stand-in: messages that were sent, kept for tests to look at and to wait for."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from common.tracking.port import Status, Step, Tracker
from common.tracking.wire import iso
from common.web.problems import Problem

_encode = msgspec.json.Encoder().encode

_Waiter = asyncio.Future["Received | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxLimits:
    """Bounds of the inbox.

    Attributes:
        messages: How many are kept; the oldest make room.
        text_bytes: The most memory that their texts take together.
        waiters: How many requests may wait at the same time.
        page_bytes: One page of a list, as JSON; a single message may be longer.
    """

    messages: int = 10_000
    text_bytes: int = 32 * 1024 * 1024
    waiters: int = 1_000
    page_bytes: int = 2 * 1024 * 1024


class Received(msgspec.Struct, frozen=True):
    """A message that was sent."""

    uuid: Annotated[
        str, Meta(description="`<run>.<seq>`, the message id", examples=["20261121-072613-24a5b446cc10.0"])
    ]
    to: Annotated[str, Meta(description="in E.164 form", examples=["+541166587382"])]
    text: str
    sent_at: Annotated[
        str,
        Meta(description="UTC, ISO 8601, to the microsecond", examples=["2026-11-21T07:26:13.123456Z"]),
    ]


class Inbox:
    """The last messages that were sent, oldest first. Reading them removes none.

    Attributes:
        waiting: How many requests wait for a message.
    """

    def __init__(self, tracker: Tracker, limits: InboxLimits | None = None) -> None:
        self.waiting = 0
        self._tracker = tracker
        self._limits = limits or InboxLimits()
        self._messages: dict[str, Received] = {}
        self._text_bytes = 0
        self._waiters: dict[str, set[_Waiter]] = {}
        self._closed = False

    async def run(self) -> None:
        """Receives what is sent, until cancelled."""
        self._closed = False
        try:
            async for steps in self._tracker.listen():
                for step in steps:
                    if step.status is Status.SENT:
                        self._receive(step)
        finally:
            self.close()

    def close(self) -> None:
        """Ends all waits: the server stops, or nothing is received any more."""
        self._closed = True
        for number in list(self._waiters):
            self._hand(number, None)

    def newest(self, number: str | None, limit: int) -> list[bytes]:
        """The newest messages to a number, or to all, oldest first, as JSON; fewer than `limit` if they are long."""
        found: list[bytes] = []
        left = self._limits.page_bytes
        for message in reversed(self._messages.values()):
            if len(found) == limit:
                break
            if number in (None, message.to):
                encoded = _encode(message)
                left -= len(encoded)
                if left < 0 and found:
                    break
                found.append(encoded)
        return found[::-1]

    def clear(self, number: str | None) -> None:
        """Removes the messages to a number, or to all."""
        for message in list(self._messages.values()):
            if number in (None, message.to):
                self._remove(message.uuid)

    def first(self, number: str, after: str | None) -> Received | None:
        """The oldest message to a number; with `after`, the oldest that was sent after that message.

        Raises KeyError if `after` is not in the inbox.
        """
        if after is not None and after not in self._messages:
            raise KeyError(after)
        passed = after is None
        for message in self._messages.values():
            if passed and message.to == number:
                return message
            passed = passed or message.uuid == after
        return None

    async def wait(
        self, number: str, timeout_s: float, until_gone: Callable[[], Awaitable[None]]
    ) -> Received | None:
        """The next message to a number; None if none comes in time, or once `until_gone` returns: the client has gone.

        Raises Problem 429 or 503.
        """
        if self._closed:
            raise _stopping()
        if self.waiting >= self._limits.waiters:
            what = f"{self._limits.waiters} requests wait already: wait for one to end"
            raise Problem(429, what, retry_after_s=1)
        async with self._waiter(number) as waiter, asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_settle_when(until_gone, waiter))
            await asyncio.wait({waiter}, timeout=timeout_s)
            watching.cancel()
        received = waiter.result() if waiter.done() else None
        if received is None and self._closed:
            raise _stopping()
        return received

    @asynccontextmanager
    async def _waiter(self, number: str) -> AsyncIterator[_Waiter]:
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(number, set())
        waiters.add(waiter)
        self.waiting += 1
        try:
            yield waiter
        finally:
            self.waiting -= 1
            waiters.discard(waiter)
            if not waiters and self._waiters.get(number) is waiters:
                del self._waiters[number]

    def _receive(self, step: Step) -> None:
        """Keeps a message once, however often its step comes, and hands it to those who wait for its number."""
        if step.uuid in self._messages:
            return
        received = Received(step.uuid, step.number, step.text, iso(step.at_us))
        self._messages[received.uuid] = received
        self._text_bytes += sys.getsizeof(received.text)
        while len(self._messages) > self._limits.messages or self._text_bytes > self._limits.text_bytes:
            self._remove(next(iter(self._messages)))
        self._hand(received.to, received)

    def _remove(self, uuid: str) -> None:
        self._text_bytes -= sys.getsizeof(self._messages.pop(uuid).text)

    def _hand(self, number: str, received: Received | None) -> None:
        for waiter in self._waiters.get(number, ()):
            if not waiter.done():
                waiter.set_result(received)


async def _settle_when(until_gone: Callable[[], Awaitable[None]], waiter: _Waiter) -> None:
    await until_gone()
    if not waiter.done():
        waiter.set_result(None)


def _stopping() -> Problem:
    return Problem(503, "the gateway is stopping: try again when it is back", retry_after_s=1)
