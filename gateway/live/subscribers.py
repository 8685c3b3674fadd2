"""Subscribers: whoever is connected to /events, and how much may wait for each of them.

A client that is too slow is dropped with a reason, rather than buffered without bound or waited for. Frames are shared
by all who see the same, also while they wait: uvloop keeps references, not copies.
"""

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from common.web.protocols import Connection
from gateway.live.filters import Filters
from gateway.live.frames import Encoded, Join, sse_frame, websocket_frame

MOST_WAITING_BYTES = 1024 * 1024
MOST_WAITING_FRAMES = 5_000
# A client that takes nothing for so long is dropped.
STALL_S = 10.0
# What a dropped client has to read what was written to it, the reason at last, before it is cut off.
LINGER_S = 5.0
HEARTBEAT_S = 15.0
RECONNECT_MS = 2000

_KERNEL_BYTES = 256 * 1024
_UNACKNOWLEDGED_MS = 30_000


class Ending(NamedTuple):
    """Why a subscription ends: a close code of RFC 6455 §7.4, and a reason of at most 123 bytes."""

    code: int
    reason: str
    linger_s: float = LINGER_S


GOING_AWAY = Ending(1001, "the gateway is shutting down", 1.0)
TOO_FAR_BEHIND = Ending(1013, f"too slow: over {MOST_WAITING_BYTES // 1024} KiB of events were waiting")
STALLED = Ending(1013, f"too slow: nothing was read for {STALL_S:g} s")


class Subscriber(Protocol):
    """One client."""

    filters: Filters
    wire: Join
    ending: Ending | None

    def offer(self, frame: bytes) -> None:
        """Writes a frame, or ends the subscription of a client that is too far behind. Never waits."""

    def check(self, now_s: float) -> None:
        """Ends the subscription of a client that takes nothing. To be called each second or so."""

    def end(self, ending: Ending) -> None:
        """Nothing more for this client but the first reason given; it is cut off after a while."""


class Socket:
    """A WebSocket. Frames go straight to its transport, whose buffer is the queue.

    A send through ASGI encodes each frame again for each client. Measured with 1,000 clients, and frames of 700 bytes
    and 7 kB: 26 us of CPU a frame all told, where this takes 13 us, two thirds of it the kernel's write.
    """

    def __init__(self, filters: Filters, websocket: WebSocket, connection: Connection) -> None:
        self.filters = filters
        self.wire: Join = websocket_frame
        self.ending: Ending | None = None
        self._websocket = websocket
        self._connection = connection
        self._transport = connection.transport
        self._written = 0
        self._progress = _Progress()
        self._closing: asyncio.Task[None] | None = None
        _prepare(connection, self)

    def offer(self, frame: bytes) -> None:
        if self.ending is not None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > MOST_WAITING_BYTES:
            self.end(TOO_FAR_BEHIND)
            return
        self._transport.write(frame)
        self._written += len(frame)

    def check(self, now_s: float) -> None:
        waiting = self._transport.get_write_buffer_size()
        if self._progress.stands_still(bool(waiting), self._written - waiting, now_s):
            self.end(STALLED)

    def end(self, ending: Ending) -> None:
        asyncio.get_running_loop().call_later(ending.linger_s, self._connection.cut_off)
        if self.ending is None:
            self.ending = ending
            self._closing = asyncio.create_task(self._close(ending))

    async def ended(self) -> None:
        """Returns once the close frame is written, if one is to be, or the client is cut off."""
        if self._closing is not None:
            await self._closing

    async def _close(self, ending: Ending) -> None:
        """Sends the close frame once there is room for it; uvicorn then ends the handler's `receive`."""
        # RuntimeError: it is closed already, by the client or the handler.
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._websocket.close(ending.code, ending.reason)


class Stream:
    """A client of Server-Sent Events: frames wait here until the response takes them."""

    def __init__(self, filters: Filters, connection: Connection | None) -> None:
        self.filters = filters
        self.wire: Join = sse_frame
        self.ending: Ending | None = None
        self._connection = connection
        self._frames: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._taken = 0
        self._some = asyncio.Event()
        self._progress = _Progress()
        if connection is not None:
            _prepare(connection, self)

    def offer(self, frame: bytes) -> None:
        if self.ending is not None:
            return
        if self._waiting_bytes > MOST_WAITING_BYTES or len(self._frames) >= MOST_WAITING_FRAMES:
            self.end(TOO_FAR_BEHIND)
            return
        self._frames.append(frame)
        self._waiting_bytes += len(frame)
        self._some.set()

    def check(self, now_s: float) -> None:
        if self._progress.stands_still(bool(self._frames), self._taken, now_s):
            self.end(STALLED)

    def end(self, ending: Ending) -> None:
        if self._connection is not None:
            asyncio.get_running_loop().call_later(ending.linger_s, self._connection.cut_off)
        if self.ending is not None:
            return
        self.ending = ending
        self._frames.clear()
        reason = b'{"type":"dropped","reason":"%b"}' % ending.reason.encode()
        self._frames.append(sse_frame([Encoded(b"dropped", reason)]))
        self._some.set()

    async def frames(self) -> AsyncIterator[bytes]:
        """What is to be sent, until the end. A comment every HEARTBEAT_S makes a dead connection show."""
        yield b"retry: %d\n\n" % RECONNECT_MS
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._some.wait()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            while self._frames:
                frame = self._frames.popleft()
                self._waiting_bytes -= len(frame)
                self._taken += 1
                yield frame
            if self.ending is not None:
                return
            self._some.clear()


class _Progress:
    """Whether something waits and nothing was taken for STALL_S."""

    def __init__(self) -> None:
        self._taken, self._since_s = 0, time.monotonic()

    def stands_still(self, waiting: bool, taken: int, now_s: float) -> bool:
        if not waiting or taken != self._taken:
            self._taken, self._since_s = taken, now_s
        return now_s - self._since_s >= STALL_S


def _prepare(connection: Connection, subscriber: Subscriber) -> None:
    """Lets the server end it; lets the kernel keep little for it, and give up on what is not acknowledged for long."""
    connection.stream(lambda: subscriber.end(GOING_AWAY))
    its_socket: socket.socket | None = connection.transport.get_extra_info("socket")
    if its_socket is not None:
        with contextlib.suppress(OSError):
            its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                its_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
