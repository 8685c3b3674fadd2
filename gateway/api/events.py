"""WS /events and GET /events: the live events, as WebSocket messages or as Server-Sent Events."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Annotated

from msgspec import Meta
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope
from starlette.websockets import WebSocket, WebSocketDisconnect

from common.audit import AuditLog
from common.errors import SmsimError
from common.tracking.port import Status
from common.web.keys.authenticator import Authenticator
from common.web.keys.port import Caller
from common.web.operations import DEADLINE_S, Answer, Operation, Parameter, Scope
from common.web.problems import Problem
from common.web.routing import audit_request
from common.web.server import connection_of
from gateway.api.views import Event
from gateway.live.broadcaster import Broadcaster
from gateway.live.filters import filters_of
from gateway.live.frames import Encoded, Frame, Join, sse_frame, websocket_message
from gateway.live.subscribers import Ending, Subscriber

PATH = "/events"
SUBPROTOCOL = "smsim.v1"

_SSE = "text/event-stream"
_SSE_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would gather them
    "Connection": "close",
}
# As the filters read them (gateway/live/filters.py); blank means unset.
_RUN, _STATUS = "[a-z0-9-]{1,40}", f"({'|'.join(Status)})"
RunFilter = Annotated[str, Meta(pattern=f"^({_RUN})?$")]
UuidFilter = Annotated[str, Meta(pattern=rf"^({_RUN}\.(0|[1-9][0-9]{{0,11}}))?$")]
StatusFilter = Annotated[str, Meta(pattern=f"^({_STATUS}(,{_STATUS})*)?$")]

_POLICY, _TRY_LATER = 1008, 1013
_LONGEST_REASON_BYTES = 123
_EXAMPLE = (
    'event: message\ndata: {"type":"message","run":"20261121-072613-24a5b446cc10",'
    '"uuid":"20261121-072613-24a5b446cc10.0","status":"sent","attempt":1,"at":"2026-11-21T07:26:15.123456Z","number":"+541166587382","text":"hello",'
    '"time_s":2.01}\n\n'
)
_DESCRIPTION = (
    "Each event's `data` is one JSON object; its `type`, also the event's name, says which. `message`: something"
    " happened to a message that was sent singly or in a small batch. `run`: a run changed, each second, and once more"
    " when it is over. `statistics`: each second, for keys with the scope `all`; others get the events of their own"
    " messages and runs only. A client that is too slow gets a last event `dropped` with the"
    " reason. A WebSocket at this path sends the same, as JSON arrays of events; browsers give their key as a"
    f" subprotocol, beside `{SUBPROTOCOL}`: `key.<API key>`."
)


class Events:
    """The two ways to listen. `Guard` keeps pages of other origins out."""

    def __init__(
        self, broadcaster: Broadcaster, authenticator: Authenticator, audit: AuditLog | None = None
    ) -> None:
        self._audit = audit
        self._broadcaster = broadcaster
        self._authenticator = authenticator

    def operations(self) -> list[Operation]:
        """The endpoint for Server-Sent Events."""
        run = Parameter(
            name="run",
            where="query",
            description="only messages and progress of this run",
            kind=RunFilter,
            example="20261121-072613-24a5b446cc10",
        )
        uuid = Parameter(
            name="uuid",
            where="query",
            description="only this message, and its run's progress",
            kind=UuidFilter,
            example="20261121-072613-24a5b446cc10.0",
        )
        status = Parameter(
            name="status",
            where="query",
            description="only messages that come to one of these, separated by commas",
            kind=StatusFilter,
            example="sent,failed",
            many=True,
        )
        return [
            Operation(
                method="GET",
                path=PATH,
                handler=self._stream,
                scope=Scope.READ,
                tag="live",
                summary="Live events, as Server-Sent Events",
                description=_DESCRIPTION,
                parameters=(run, uuid, status),
                answers={
                    200: Answer("a stream without end", kind=Event, example=_EXAMPLE, media_type=_SSE),
                    422: Answer("a filter's value can't be used"),
                },
            )
        ]

    def websockets(self) -> list[WebSocketRoute]:
        """The WebSocket."""
        return [WebSocketRoute(PATH, self._websocket)]

    async def _stream(self, request: Request) -> Response:
        filters_of(request.query_params)  # raises Problem
        if request.method == "HEAD":
            return Response(media_type=_SSE, headers=_SSE_HEADERS)
        if self._broadcaster.full:
            raise Problem(503, "Too many clients listen already.", retry_after_s=5)
        return _EventStream(self, request)

    async def _websocket(self, websocket: WebSocket) -> None:
        try:
            websocket.state.caller = await self._check_key(websocket)
        except Problem as problem:
            if self._audit is not None:
                audit_request(self._audit, f"WS {PATH}", websocket, problem.status)
            await websocket.send_denial_response(problem.response())
            return
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None)
        try:
            filters_of(websocket.query_params)
        except Problem as problem:
            await websocket.close(_POLICY, _reason(problem))
            return
        if self._broadcaster.full:
            await websocket.close(_TRY_LATER, "too many clients listen already: try again later")
            return
        await self._send_all(websocket)

    async def _send_all(self, websocket: WebSocket) -> None:
        async with self.subscribed(websocket, websocket_message) as subscriber:
            reading = asyncio.create_task(_read_until_closed(websocket, subscriber))
            try:
                async for frame in subscriber.frames():
                    await websocket.send({"type": "websocket.send", "text": frame})
                if subscriber.ending is not None:
                    await websocket.close(subscriber.ending.code, subscriber.ending.reason)
            except WebSocketDisconnect:
                pass  # the client has gone
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def subscribed(self, client: HTTPConnection, join: Join) -> AsyncIterator[Subscriber]:
        """A subscriber for a client; its subscription ends when its API key is revoked."""
        connection = connection_of(client.scope)
        if connection is None:
            raise RuntimeError("events need the server of common.web.server")
        caller: Caller = client.state.caller
        owner = None if caller.sees_all else caller.id
        filters = dataclasses.replace(filters_of(client.query_params), owner=owner)
        subscriber = Subscriber(filters, join, connection, self._broadcaster.limits)
        rechecking = asyncio.create_task(self._recheck_key(client, subscriber))
        try:
            with self._broadcaster.subscribed(subscriber):
                yield subscriber
        finally:
            rechecking.cancel()
            await asyncio.gather(rechecking, return_exceptions=True)

    def first_frame(self) -> bytes:
        """When clients of Server-Sent Events reconnect."""
        return b"retry: %d\n\n" % self._broadcaster.limits.reconnect_ms

    async def _recheck_key(self, client: HTTPConnection, subscriber: Subscriber) -> None:
        while True:
            await asyncio.sleep(self._broadcaster.limits.recheck_s)
            try:
                await self._check_key(client)
            except Problem as problem:
                if problem.status < 500:  # else the key can't be checked now; it was good so far
                    subscriber.end(Ending(_POLICY, _reason(problem)))
                    return

    async def _check_key(self, client: HTTPConnection) -> Caller:
        """Who listens. Raises Problem."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                caller = await self._authenticator.authenticate(client)
        except (TimeoutError, SmsimError):
            raise Problem(503, "The API keys can't be looked up now.", retry_after_s=5) from None
        self._authenticator.require(caller, Scope.READ)
        return caller


class _EventStream(StreamingResponse):
    """Server-Sent Events; the subscription lasts as long as the answer."""

    def __init__(self, events: Events, request: Request) -> None:
        super().__init__(self._frames(), headers=_SSE_HEADERS, media_type=_SSE)
        self._events = events
        self._request = request
        self._subscriber: Subscriber

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        async with self._events.subscribed(self._request, sse_frame) as self._subscriber:
            await super().__call__(scope, receive, send)

    async def _frames(self) -> AsyncIterator[Frame]:
        yield self._events.first_frame()
        async for frame in self._subscriber.frames(heartbeat=b": still here\n\n"):
            yield frame
        if self._subscriber.ending is not None:
            reason = b'{"type":"dropped","reason":"%b"}' % self._subscriber.ending.reason.encode()
            yield sse_frame([Encoded(b"dropped", reason)])


async def _read_until_closed(websocket: WebSocket, subscriber: Subscriber) -> None:
    """What a client sends is ignored; the server bounds it."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
    subscriber.leave()


def _reason(problem: Problem) -> str:
    """The problem in the few bytes that a close frame has for it."""
    text = "; ".join(f"{what.where}: {what.what}" for what in problem.errors) or problem.detail
    return text.encode()[:_LONGEST_REASON_BYTES].decode(errors="ignore")
