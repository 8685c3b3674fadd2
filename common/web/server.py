"""Serves an ASGI application: uvicorn, in the event loop that runs already, behind a `FrontDoor`."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.utils import ClientDisconnected

from common.errors import Unavailable
from common.open_files import raise_file_limit
from common.web.connection import Connection
from common.web.fast_lane import FastLane
from common.web.front_door import FrontDoor
from common.web.limits import Limits

log = logging.getLogger(__name__)

SPARE_FILES = 200  # for everything but client connections
_NEVER_S = 24 * 3600  # uvicorn's keep-alive; the front door has its own


class _Server(uvicorn.Server):
    """Leaves signals to the command that it is part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp,
    host: str,
    port: int,
    limits: Limits | None = None,
    *,
    fast_lane: FastLane | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Serves until left, with TLS if there is a context for it; gives the port (0 asks for any free one).

    Raises Unavailable if it can't listen.
    """
    limits = _allowed(limits or Limits())
    door = FrontDoor(limits, fast_lane, tls)
    listener = _listener(host, port, limits)
    server = _Server(_config(app, door))
    async with door.open():
        task = asyncio.create_task(server.serve([listener]))
        try:
            while not server.started and not task.done():
                await asyncio.sleep(0.005)
            if task.done():
                await task  # raises what ended it
                raise Unavailable(f"the server on {host}:{port} ended before it served: see the log")
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await asyncio.wait({task})
            if cancelled := set(server.server_state.tasks):
                await asyncio.wait(cancelled, timeout=limits.last_answers_s)
            listener.close()


def connection_of(scope: Scope) -> Connection | None:
    """The connection that a request came by; None without this server."""
    connection: Connection | None = scope.get("state", {}).get("connection")
    return connection


def _allowed(limits: Limits) -> Limits:
    """The limits, with no more connections than the system allows open files."""
    allowed = max(1, raise_file_limit() - SPARE_FILES)
    if allowed >= limits.connections:
        return limits
    reason = "the system allows too few open files (ulimit -n)"
    log.warning(
        "connections_limited",
        extra={"connections": allowed, "wanted": limits.connections, "reason": reason},
    )
    return dataclasses.replace(limits, connections=allowed)


def _config(app: ASGIApp, door: FrontDoor) -> uvicorn.Config:
    limits = door.limits
    return uvicorn.Config(
        _Answered(app),
        http=door.protocol,  # type: ignore[arg-type]  # it only calls it
        ws="websockets-sansio",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="critical",  # it logs at ERROR, with a traceback, what any client can cause
        server_header=False,
        proxy_headers=False,
        ws_max_size=limits.websocket_message_bytes,
        ws_ping_interval=limits.websocket_ping_s,
        ws_ping_timeout=limits.websocket_ping_s,
        ws_per_message_deflate=False,
        timeout_keep_alive=_NEVER_S,
        timeout_graceful_shutdown=limits.grace_s,  # type: ignore[arg-type]  # it takes any number
        backlog=limits.backlog,
    )


class _Answered:
    """Tells each connection when its request is answered. An answer before the request has come whole is its last.

    Faults of the application are logged here, since uvicorn logs nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        except (ClientDisconnected, WebSocketDisconnect):
            raise
        except Exception as error:
            log.error("request_failed", exc_info=error)
            raise

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = connection_of(scope)
        if scope["type"] == "websocket":
            await self._app(scope, receive, _until_closed(send))
            return
        if connection is None:
            await self._app(scope, receive, send)
            return

        async def send_or_end(message: Message) -> None:
            if message["type"] == "http.response.start" and not connection.whole:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_or_end)
        connection.answered()


def _until_closed(send: Send) -> Send:
    """`send` for a WebSocket. Where uvicorn has closed it for a bad frame, the client counts as gone."""

    async def send_or_end(message: Message) -> None:
        try:
            await send(message)
        except RuntimeError:
            raise ClientDisconnected from None

    return send_or_end


def _listener(host: str, port: int, limits: Limits) -> socket.socket:
    """Connections inherit its options."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=limits.backlog)
    except OSError as error:
        # That of a name that is not found is negative.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise Unavailable(f"can't listen on {host}:{port}: {reason}") from None
    # asyncio's own loop sets it on no socket that it did not make, and then an answer's body waits for the ACK of its
    # head: 40 ms (seen; uvloop sets it always).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.send_buffer_bytes)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        unacknowledged_ms = int(limits.unacknowledged_s * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unacknowledged_ms)
    return listener
