"""Serves an ASGI application with uvicorn, in the event loop that runs already."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp

from common.errors import Unavailable
from common.web.protocols import EventHttp, EventWebSocket

BACKLOG = 4096
# What open requests may take once it is told to stop; streams end at once. Docker kills 10 s after SIGTERM.
GRACE_S = 5
# What requests may take to say that their time is over.
_LAST_WORDS_S = 1.0
LARGEST_WS_MESSAGE = 4096
WS_PING_S = 20.0
# An idle connection is kept for longer than proxies keep theirs, which would else reuse one that is just closing.
KEEP_ALIVE_S = 75


class _Server(uvicorn.Server):
    """Leaves signals to the command that it is part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, host: str, port: int) -> AsyncIterator[int]:
    """Serves there until left; gives the port (0 asks for any free one). Raises Unavailable if it can't listen."""
    listener = _listener(host, port)
    config = uvicorn.Config(
        app,
        http=EventHttp,
        ws=EventWebSocket,
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        ws_max_size=LARGEST_WS_MESSAGE,
        ws_ping_interval=WS_PING_S,
        ws_ping_timeout=WS_PING_S,
        ws_per_message_deflate=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
    )
    server = _Server(config)
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
            await asyncio.wait(cancelled, timeout=_LAST_WORDS_S)
        listener.close()


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise Unavailable(
            f"can't listen on {host}:{port}: {error.strerror} (GATEWAY_HOST, GATEWAY_PORT)"
        ) from None
    # Connections inherit it. asyncio's own loop sets it on no socket that it did not make, and then an answer's body
    # waits for the ACK of its head: 40 ms (seen; uvloop sets it always).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
