"""GET and DELETE /inbox, GET /inbox/wait: what the stand-in sent (docs/stand-in.md)."""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from common.sms.numbers import LONGEST_CHARS, NumberRules, normalise
from common.web.operations import Answer, Operation, Parameter, Scope
from common.web.problems import FieldError, Problem
from common.web.responses import json_response
from common.web.server import connection_of
from common.web.validation import field_errors, invalid
from gateway.live.inbox import Inbox, InboxLimits, Received

LONGEST_WAIT_S = 60.0

_LIMITS = InboxLimits()
_EXAMPLE_TO = "+358401234567"
_RAW_PLUS = "Its + may be typed raw, or left away."
_BAD_QUERY = Answer("A parameter is no good; `errors` says which")
_EXAMPLE = {
    "uuid": "20261121-072613-24a5b446cc10.0",
    "to": _EXAMPLE_TO,
    "text": "Your code is 4711",
    "sent_at": "2026-11-21T07:26:13.123456Z",
}

To = Annotated[str, Meta(min_length=1, max_length=LONGEST_CHARS, examples=[_EXAMPLE_TO])]
Limit = Annotated[int, Meta(ge=1, le=_LIMITS.messages)]
Timeout = Annotated[float, Meta(ge=0, le=LONGEST_WAIT_S, description="seconds")]
After = Annotated[str, Meta(max_length=60)]


class InboxView(msgspec.Struct, frozen=True):
    """Messages that were sent, newest last."""

    messages: list[Received]


class _List(msgspec.Struct, forbid_unknown_fields=True):
    to: To | None = None
    limit: Limit = 100


class _Clear(msgspec.Struct, forbid_unknown_fields=True):
    to: To | None = None


class _Wait(msgspec.Struct, forbid_unknown_fields=True):
    to: To
    timeout: Timeout = 5.0
    after: After | None = None


Query = TypeVar("Query", _List, _Clear, _Wait)


class InboxRoutes:
    """The endpoints of an inbox; `numbers` says how the number of a query is read."""

    def __init__(self, inbox: Inbox, numbers: NumberRules) -> None:
        self._inbox = inbox
        self._numbers = numbers

    def operations(self) -> list[Operation]:
        """Its endpoints."""
        only_to = Parameter(
            name="to",
            where="query",
            description=f"Only those to this number. {_RAW_PLUS}",
            kind=To,
            example=_EXAMPLE_TO,
        )
        return [self._list_operation(only_to), self._clear_operation(only_to), self._wait_operation()]

    def _list_operation(self, only_to: Parameter) -> Operation:
        limit = Parameter(
            name="limit",
            where="query",
            description="How many of the newest; 100 unless given",
            kind=Limit,
            example=20,
        )
        return Operation(
            method="GET",
            path="/inbox",
            handler=self._list,
            scope=Scope.READ,
            of_all=True,
            tag="inbox",
            summary="List what was sent",
            description=(
                f"The last {_LIMITS.messages:,} messages that were sent, in the order of their sending. An answer has"
                f" {_LIMITS.page_bytes // 2**20} MiB at most: fewer messages where their texts are long."
            ),
            parameters=(only_to, limit),
            answers={
                200: Answer("The messages, newest last", kind=InboxView, example={"messages": [_EXAMPLE]}),
                422: _BAD_QUERY,
            },
        )

    def _clear_operation(self, only_to: Parameter) -> Operation:
        return Operation(
            method="DELETE",
            path="/inbox",
            handler=self._clear,
            scope=Scope.SEND,
            of_all=True,
            tag="inbox",
            summary="Empty the inbox",
            description="Takes messages out of the inbox; what becomes of them elsewhere does not change.",
            parameters=(only_to,),
            answers={204: Answer("They are gone"), 422: _BAD_QUERY},
        )

    def _wait_operation(self) -> Operation:
        to = Parameter(
            name="to",
            where="query",
            description=f"The number. {_RAW_PLUS}",
            kind=To,
            example=_EXAMPLE_TO,
            required=True,
        )
        timeout = Parameter(
            name="timeout",
            where="query",
            description="How long to wait; 5 unless given",
            kind=Timeout,
            example=5,
        )
        after = Parameter(
            name="after",
            where="query",
            description="The uuid of a message in the inbox: only what was sent after it counts",
            kind=After,
        )
        return Operation(
            method="GET",
            path="/inbox/wait",
            handler=self._wait,
            scope=Scope.READ,
            of_all=True,
            tag="inbox",
            summary="Wait for a message to a number",
            description=(
                "Answers the oldest message to this number in the inbox, at once if there is one, else as soon as one"
                " comes. The message stays in the inbox, so that the same request gives the same message again:"
                f" `after` asks for the next one. {_LIMITS.waiters:,} requests may wait at a time."
            ),
            parameters=(to, timeout, after),
            answers={
                200: Answer("The message", kind=Received, example=_EXAMPLE),
                204: Answer("None came in time"),
                404: Answer("The inbox does not hold the message that `after` names"),
                422: _BAD_QUERY,
            },
            deadline_s=LONGEST_WAIT_S + 5,
        )

    async def _list(self, request: Request) -> Response:
        query = self._query(request, _List)
        messages = b",".join(self._inbox.newest(query.to, query.limit))
        return json_response(b'{"messages":[%b]}' % messages)

    async def _clear(self, request: Request) -> Response:
        self._inbox.clear(self._query(request, _Clear).to)
        return Response(status_code=204)

    async def _wait(self, request: Request) -> Response:
        query = self._query(request, _Wait)
        try:
            found = self._inbox.first(query.to, query.after)
        except KeyError:
            what = "no such message in the inbox: it was not sent yet, or is not kept any more"
            raise Problem(404, f"query.after: {what}", [FieldError("query.after", what)]) from None
        if found is None:
            found = await self._next(request, query)
        return Response(status_code=204) if found is None else json_response(found)

    async def _next(self, request: Request, query: _Wait) -> Received | None:
        connection = connection_of(request.scope)
        if connection is not None:
            connection.streams()

        async def until_gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        return await self._inbox.wait(query.to, query.timeout, until_gone)

    def _query(self, request: Request, kind: type[Query]) -> Query:
        """The query, its number in E.164 form. Raises Problem 422."""
        try:
            query = msgspec.convert(dict(request.query_params), kind, strict=False)
        except msgspec.ValidationError:
            raise invalid(field_errors(dict(request.query_params), kind, "query", strict=False)) from None
        if query.to is not None:
            number = query.to.strip()  # in a query a raw + means a space
            if number[:1].isdigit() and not number.startswith("00"):
                number = f"+{number}"
            try:
                query.to = normalise(number, self._numbers)
            except ValueError as error:
                raise invalid([FieldError("query.to", str(error))]) from None
        return query
