"""WS /events and GET /events: the live events, as WebSocket messages or as Server-Sent Events."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from msgspec import Meta
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Send
from starlette.types import Scope as Connection
from starlette.websockets import WebSocket

from common.errors import SmsimError
from common.web.keys.authenticator import Authenticator
from common.web.operations import DEADLINE_S, Answer, Operation, Parameter, Scope
from common.web.problems import Problem
from common.web.protocols import connection_of
from gateway.api.views import Event
from gateway.live.filters import Filters, filters_of
from gateway.live.hub import Hub
from gateway.live.subscribers import Ending, Socket, Stream, Subscriber

PATH = "/events"
SUBPROTOCOL = "smsim.v1"
# A stream outlives the request that began it, so that its key is looked at again.
RECHECK_S = 60.0

_SSE_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would gather them
    "Connection": "close",
}
# As the filters read them (gateway/live/filters.py); blank means unset.
_RUN, _STATUS = "[a-z0-9-]{1,40}", "(queued|sending|sent|failed)"
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


class EventRoutes:
    """The two ways to listen to a hub. `Guard` keeps pages of other origins out."""

    def __init__(self, hub: Hub, authenticator: Authenticator) -> None:
        self._hub = hub
        self._authenticator = authenticator

    def operations(self) -> list[Operation]:
        """The endpoint for Server-Sent Events."""
        return [
            Operation(
                method="GET",
                path=PATH,
                handler=self._stream,
                scope=Scope.READ,
                tag="live",
                summary="Live events, as Server-Sent Events",
                description=(
                    "Each event's `data` is one JSON object; its `type`, also the event's name, says which. `message`:"
                    " something happened to a message that was sent singly or in a small batch. `run`: a run moved,"
                    " each second, and once more when it is over. `statistics`: each second. A client that is too slow"
                    " gets a last event `dropped` with the reason. The same comes from a WebSocket at this path, as"
                    f" JSON arrays of events; browsers give their key as a subprotocol, beside `{SUBPROTOCOL}`:"
                    " `key.<API key>`."
                ),
                parameters=(
                    Parameter(
                        *("run", "query", "only messages and progress of this run"),
                        kind=RunFilter,
                        example="20261121-072613-24a5b446cc10",
                    ),
                    Parameter(
                        *("uuid", "query", "only this message, and its run's progress"),
                        kind=UuidFilter,
                        example="20261121-072613-24a5b446cc10.0",
                    ),
                    Parameter(
                        *("status", "query", "only messages that come to one of these, separated by commas"),
                        kind=StatusFilter,
                        example="sent,failed",
                    ),
                ),
                answers={
                    200: Answer("a stream without end", Event, _EXAMPLE, "text/event-stream"),
                    422: Answer("a filter's value can't be used"),
                },
            )
        ]

    def websockets(self) -> list[WebSocketRoute]:
        """The WebSocket."""
        return [WebSocketRoute(PATH, self._websocket)]

    async def _stream(self, request: Request) -> Response:
        filters = filters_of(request.query_params)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream", headers=_SSE_HEADERS)
        if self._hub.full:
            raise Problem(503, "Too many clients listen already.", retry_after_s=5)
        return _EventStream(self, request, Stream(filters, connection_of(request.scope)))

    async def _websocket(self, websocket: WebSocket) -> None:
        try:
            await self._check_key(websocket)
        except Problem as problem:
            await websocket.send_denial_response(problem.response())
            return
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None)
        try:
            filters = filters_of(websocket.query_params)
        except Problem as problem:
            await websocket.close(_POLICY, _reason(problem))
            return
        if self._hub.full:
            await websocket.close(_TRY_LATER, "too many clients listen already: try again later")
            return
        await self._relay(websocket, filters)

    async def _relay(self, websocket: WebSocket, filters: Filters) -> None:
        connection = connection_of(websocket.scope)
        if connection is None:
            raise RuntimeError("the server does not run with common.web.protocols")
        subscriber = Socket(filters, websocket, connection)
        async with self.listening(websocket, subscriber):
            # What a client says is not asked for; uvicorn bounds its size.
            while (await websocket.receive())["type"] != "websocket.disconnect":
                pass
            await subscriber.ended()

    @contextlib.asynccontextmanager
    async def listening(self, connection: HTTPConnection, subscriber: Subscriber) -> AsyncIterator[None]:
        """While this lasts, the subscriber is told everything, as long as its key is good."""
        recheck = asyncio.create_task(self._recheck(connection, subscriber))
        try:
            with self._hub.subscribed(subscriber):
                yield
        finally:
            recheck.cancel()
            await asyncio.gather(recheck, return_exceptions=True)

    async def _recheck(self, connection: HTTPConnection, subscriber: Subscriber) -> None:
        while True:
            await asyncio.sleep(RECHECK_S)
            try:
                await self._check_key(connection)
            except Problem as problem:
                if problem.status < 500:  # else nobody knows; it was good so far
                    subscriber.end(Ending(_POLICY, _reason(problem)))
                    return

    async def _check_key(self, connection: HTTPConnection) -> None:
        """Raises Problem."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                caller = await self._authenticator.authenticate(connection)
        except (TimeoutError, SmsimError):
            raise Problem(503, "The API keys can't be looked up now.", retry_after_s=5) from None
        self._authenticator.require(caller, Scope.READ)


class _EventStream(StreamingResponse):
    """The answer that goes on; the subscription lasts as long as it does."""

    def __init__(self, routes: EventRoutes, request: Request, stream: Stream) -> None:
        super().__init__(stream.frames(), headers=_SSE_HEADERS, media_type="text/event-stream")
        self._routes, self._request, self._stream = routes, request, stream

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        async with self._routes.listening(self._request, self._stream):
            await super().__call__(scope, receive, send)


def _reason(problem: Problem) -> str:
    """The problem in the few bytes that a close frame has for it."""
    flaws: list[Any] = problem.flaws
    text = "; ".join(f"{flaw.where}: {flaw.what}" for flaw in flaws) or problem.detail
    return text.encode()[:_LONGEST_REASON_BYTES].decode(errors="ignore")
