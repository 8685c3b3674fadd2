"""The inbox: what was "sent", kept for tests to look at and to wait for (docs/stand-in.md)."""

import asyncio
from collections.abc import Iterator
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from common.sms.numbers import normalise
from common.tracking.port import Status, Step, Tracker
from common.tracking.wire import iso
from common.web.answers import json_answer
from common.web.flaws import flaws_in, refused
from common.web.operations import Answer, Operation, Parameter, Scope
from common.web.problems import Flaw, Problem
from common.web.server import connection_of
from gateway.api.schemas import NumberText, Time, UuidText

# The last so many messages are kept.
MAX_MESSAGES = 10_000
MAX_WAITERS = 1_000
LONGEST_WAIT_S = 60.0

To = Annotated[str, Meta(min_length=1, max_length=40, examples=["+358401234567"])]
Limit = Annotated[int, Meta(ge=1, le=MAX_MESSAGES)]
Timeout = Annotated[float, Meta(ge=0, le=LONGEST_WAIT_S, description="seconds")]
After = Annotated[str, Meta(max_length=60)]


class Received(msgspec.Struct, frozen=True):
    """A message that was sent."""

    uuid: UuidText
    to: NumberText
    text: str
    sent_at: Time


class InboxView(msgspec.Struct, frozen=True):
    """Messages that were sent, newest last."""

    messages: list[Received]


class _Look(msgspec.Struct, forbid_unknown_fields=True):
    to: To | None = None
    limit: Limit = 100


class _Clear(msgspec.Struct, forbid_unknown_fields=True):
    to: To | None = None


class _Wait(msgspec.Struct, forbid_unknown_fields=True):
    to: To
    timeout: Timeout = 5.0
    after: After | None = None


Query = TypeVar("Query", _Look, _Clear, _Wait)
Waiter = asyncio.Future[Received | None]


class Inbox:
    """The last messages that were sent, in the order of their sending. Looking at them takes none away.

    `waiting` is how many requests wait for one.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._messages: dict[str, Received] = {}
        self._waiters: dict[str, set[Waiter]] = {}
        self.waiting = 0
        self._ended = False

    async def run(self) -> None:
        """Takes in what is sent, until cancelled."""
        self._ended = False
        try:
            async for steps in self._tracker.listen():
                for step in steps:
                    if step.status is Status.SENT:
                        self._take_in(step)
        finally:
            self.close()

    def close(self) -> None:
        """Ends all waits: the server stops, or nothing is taken in any more."""
        self._ended = True
        for number in list(self._waiters):
            self._answer(number, None)

    def _take_in(self, step: Step) -> None:
        """Keeps a message, once however often it is told of, and hands it to those who wait for its number."""
        if step.uuid in self._messages:
            return
        received = Received(step.uuid, step.number, step.text, iso(step.at_us))
        self._messages[received.uuid] = received
        if len(self._messages) > MAX_MESSAGES:
            del self._messages[next(iter(self._messages))]
        self._answer(received.to, received)

    def _answer(self, number: str, received: Received | None) -> None:
        for waiter in self._waiters.get(number, ()):
            _settle(waiter, received)

    async def _list(self, request: Request) -> Response:
        query = _query(request, _Look)
        messages = list(self._to(query.to))
        return json_answer(InboxView(messages[-query.limit :]))

    async def _delete(self, request: Request) -> Response:
        for message in list(self._to(_query(request, _Clear).to)):
            del self._messages[message.uuid]
        return Response(status_code=204)

    async def _wait(self, request: Request) -> Response:
        query = _query(request, _Wait)
        found = self._first(query) or await self._next(query, request)
        if found is None:
            return Response(status_code=204)
        return json_answer(found)

    def _to(self, number: str | None) -> Iterator[Received]:
        """The messages to a number, or to all; oldest first."""
        return (m for m in self._messages.values() if number is None or m.to == number)

    def _first(self, query: _Wait) -> Received | None:
        """The oldest message that is asked for. Problem 404 if `after` names none that is here."""
        if query.after is not None and query.after not in self._messages:
            what = "no such message in the inbox: it was not sent yet, or is not kept any more"
            raise Problem(404, f"query.after: {what}", [Flaw("query.after", what)])
        passed = query.after is None
        for message in self._messages.values():
            if passed and message.to == query.to:
                return message
            passed = passed or message.uuid == query.after
        return None

    async def _next(self, query: _Wait, request: Request) -> Received | None:
        """The next message to a number; None if none comes in time, or the client has gone."""
        if self._ended:
            raise _ending()
        if self.waiting >= MAX_WAITERS:
            raise Problem(429, f"{MAX_WAITERS} requests wait already: wait for one to end", retry_after_s=1)
        waiter: Waiter = asyncio.get_running_loop().create_future()
        gone = asyncio.create_task(_gone(request))
        gone.add_done_callback(lambda _: _settle(waiter, None))
        connection = connection_of(request.scope)
        if connection is not None:
            connection.streams()
        waiters = self._waiters.setdefault(query.to, set())
        waiters.add(waiter)
        self.waiting += 1
        try:
            await asyncio.wait({waiter}, timeout=query.timeout)
        finally:
            self.waiting -= 1
            waiters.discard(waiter)
            if not waiters and self._waiters.get(query.to) is waiters:
                del self._waiters[query.to]
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        received = waiter.result() if waiter.done() else None
        if received is None and self._ended:
            raise _ending()
        return received

    def operations(self) -> list[Operation]:
        """GET and DELETE /inbox, GET /inbox/wait."""
        return [
            Operation(
                "GET",
                "/inbox",
                self._list,
                Scope.READ,
                "inbox",
                "List what was sent",
                {
                    200: Answer("The messages, newest last", InboxView, {"messages": [EXAMPLE]}),
                    422: BAD_QUERY,
                },
                f"The last {MAX_MESSAGES:,} messages that were sent are kept, in the order of their sending.",
                (
                    Parameter("to", "query", f"Only those to this number. {RAW_PLUS}", To, EXAMPLE_TO),
                    Parameter("limit", "query", "So many of the newest; 100 unless given", Limit, 20),
                ),
            ),
            Operation(
                "DELETE",
                "/inbox",
                self._delete,
                Scope.SEND,
                "inbox",
                "Empty the inbox",
                {204: Answer("They are gone"), 422: BAD_QUERY},
                "Takes messages out of the inbox; what becomes of them elsewhere does not change.",
                (Parameter("to", "query", f"Only those to this number. {RAW_PLUS}", To, EXAMPLE_TO),),
            ),
            Operation(
                "GET",
                "/inbox/wait",
                self._wait,
                Scope.READ,
                "inbox",
                "Wait for a message to a number",
                {
                    200: Answer("The message", Received, EXAMPLE),
                    204: Answer("None came in time"),
                    404: Answer("The inbox does not hold the message that `after` names"),
                    422: BAD_QUERY,
                },
                "Answers the oldest message to this number in the inbox, at once if there is one, else as soon as one"
                " comes. The message stays in the inbox, so that asking again, or from elsewhere, gives the same"
                f" one: `after` asks for the next. {MAX_WAITERS:,} requests may wait at a time.",
                (
                    Parameter("to", "query", f"The number. {RAW_PLUS}", To, EXAMPLE_TO, required=True),
                    Parameter("timeout", "query", "How long to wait; 5 unless given", Timeout, 5),
                    Parameter(
                        "after",
                        "query",
                        "The uuid of a message in the inbox: only what was sent after it counts",
                        After,
                    ),
                ),
                deadline_s=LONGEST_WAIT_S + 5,
            ),
        ]


def _settle(waiter: Waiter, received: Received | None) -> None:
    if not waiter.done():
        waiter.set_result(received)


async def _gone(request: Request) -> None:
    """Returns when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _ending() -> Problem:
    return Problem(503, "the gateway is ending: try again when it is back", retry_after_s=1)


def _query(request: Request, kind: type[Query]) -> Query:
    """What the query says, its number in E.164. Problem 422 for whatever it may not say."""
    try:
        query = msgspec.convert(dict(request.query_params), kind, strict=False)
    except msgspec.ValidationError:
        raise refused(flaws_in(dict(request.query_params), kind, "query", strict=False)) from None
    if query.to is not None:
        # In a query a raw + means a space.
        number = query.to.strip()
        try:
            query.to = normalise(f"+{number}" if number[:1].isdigit() else number)
        except ValueError as error:
            raise refused([Flaw("query.to", str(error))]) from None
    return query


EXAMPLE_TO = "+358401234567"
EXAMPLE = {
    "uuid": "20261121-072613-24a5b446cc10.0",
    "to": EXAMPLE_TO,
    "text": "Your code is 4711",
    "sent_at": "2026-11-21T07:26:13.123456Z",
}
RAW_PLUS = "Its + may be typed raw, or left away."
BAD_QUERY = Answer("A parameter is no good; `errors` says which")
