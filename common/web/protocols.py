"""uvicorn's protocols, with the connection itself in the ASGI scope: `Config(http=EventHttp, ws=EventWebSocket)`.

ASGI can say neither how much waits to be written, nor "cut it off", nor "the server stops": a client that takes nothing
would keep its socket for ever, since closing waits until all is written, and open streams would hold up a shutdown. And
a send through ASGI encodes each frame anew for each client. And uvicorn itself bounds no request's head, loses sight of
a client behind a pipelined request, and reads on what nobody wants. Made for the uvicorn that poetry.lock names.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from common.web.problems import Problem

# Request line and header fields of a request; the like for trailers.
LARGEST_HEAD_BYTES = 64 * 1024
# A client that is refused while it still sends: so long, or so much, is thrown away for it to come to read the answer,
# which a reset would take from it.
LINGER_S = 2.0
MOST_THROWN_AWAY_BYTES = 64 * 1024 * 1024

_EXTENSION = "smsim.connection"
# What the event loops read at once, at most.
_READ_BYTES = 256 * 1024


@dataclass(slots=True)
class Connection:
    """A client's connection. `on_shutdown` is called when the server stops, by whoever has an open stream on it;
    `stopping`: it does. `half_closed`: the client sends no more, and waits for its answer, or has gone.
    """

    transport: asyncio.Transport
    on_shutdown: Callable[[], None] | None = None
    stopping: bool = False
    half_closed: bool = False

    def stream(self, on_shutdown: Callable[[], None]) -> None:
        """The answer may take long from now on: who sends no more counts as gone."""
        self.on_shutdown = on_shutdown
        if self.half_closed:
            self.transport.close()

    def cut_off(self) -> None:
        """Closes at once and throws away what waits, the kernel's part too."""
        its_socket: socket.socket | None = self.transport.get_extra_info("socket")
        if its_socket is not None:
            with contextlib.suppress(OSError, ValueError):  # it is closed already
                its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class EventHttp(HttpToolsProtocol):
    """HTTP/1.1. uvicorn's `cycle` is the newest request of a connection; `_running` is the one being answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._connection = Connection(transport)
        self._extensions = {_EXTENSION: {"connection": self._connection}}
        # The transport as a cycle sees it, which closes it after the last answer.
        self._answering = SimpleNamespace(
            write=transport.write, is_closing=transport.is_closing, close=self._close_after_answer
        )
        self._running: RequestResponseCycle | None = None
        self._arriving: RequestResponseCycle | None = None  # its body is not there yet
        self._may_stay = False
        self._read_bytes = 0
        self._head_bytes = 0  # no less than what has come since the last head or piece of a body
        self._why: Problem | None = None  # what is wrong with a request that is no good
        self._deaf = False  # what comes is thrown away
        self._lingers = False  # and all is answered that will be
        self._thrown_away_bytes = 0

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or is cut off: whoever is answering it hears of it, and what is pipelined is dropped."""
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._running is not None:
            _abandon(self._running)
            self._running.transport = self.transport  # else each would keep the other

    def data_received(self, data: bytes) -> None:
        """Some bytes of requests."""
        if self._deaf:
            self._thrown_away_bytes += len(data)
            if self._thrown_away_bytes > MOST_THROWN_AWAY_BYTES:
                self.transport.close()
            return
        self._read_bytes = len(data)
        self._head_bytes += len(data)
        super().data_received(data)
        # The first read may have brought other things too. A head that is complete is measured, see below.
        if self._head_bytes > LARGEST_HEAD_BYTES + _READ_BYTES and not self._deaf:
            self._why = _too_large()
            self.send_400_response("")

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends no more: it gets the answers that it waits for. Streams end: it has most likely gone."""
        if self._nothing_to_answer():
            return None
        self._connection.half_closed = True
        return True

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        cast(dict[str, Any], self.scope)["extensions"] = self._extensions
        self._head_bytes = self._read_bytes

    def on_headers_complete(self) -> None:
        """Its head is there. Until its body is too, an answer is the connection's last."""
        if self._head_bytes > LARGEST_HEAD_BYTES and self._measured() > LARGEST_HEAD_BYTES:
            self._why = _too_large()
            raise _Refused
        if self.parser.should_upgrade() and self._has_body():
            # Its body would be skipped, or taken for the next request.
            self._why = Problem(
                400, "a request with a body can't ask for another protocol: send it without Upgrade"
            )
            raise _Refused
        self._head_bytes = 0
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:  # else it becomes a WebSocket
            self._arriving = self.cycle
            self._may_stay, self.cycle.keep_alive = self.cycle.keep_alive, False

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        super().on_message_complete()
        if self._arriving is not None and not self._arriving.response_started:
            self._arriving.keep_alive = self._may_stay
        self._arriving = None

    def on_response_complete(self) -> None:
        """A request is answered; the next one of the pipeline is begun."""
        if self._deaf:
            return
        super().on_response_complete()
        if self._connection.half_closed and self._nothing_to_answer():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answers what can't be read, after what is being answered; reads no more."""
        running = self._running
        if running is not None and not running.response_complete:
            if running.response_started or running is not self._arriving:
                running.keep_alive = False
                self.pipeline.clear()
                self._deaf = True
                return
            _abandon(running)
        problem = self._why or Problem(400, "this is no HTTP/1.1 request: send one")
        answer = problem.response()
        lines = [*self.server_state.default_headers, *answer.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % line for line in lines)
        self.transport.write(STATUS_LINE[answer.status_code] + head + b"\r\n" + bytes(answer.body))
        self._linger()

    def shutdown(self) -> None:
        """The server stops: open streams end."""
        self._may_stay = False
        self._connection.stopping = True
        super().shutdown()
        _tell(self._connection)

    def handle_websocket_upgrade(self) -> None:
        """The connection becomes a WebSocket; not behind what is being answered, which would lose its client."""
        if self._running is None or self._running.response_complete:
            super().handle_websocket_upgrade()
        else:
            self.send_400_response("")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        cycle.transport = cast(asyncio.Transport, self._answering)
        super()._start_asgi_task(cycle, app)

    def _nothing_to_answer(self) -> bool:
        """Whether no request waits for its answer, of those that are there whole and don't stream."""
        running = self._running
        return (
            self._lingers
            or running is None
            or running.response_complete
            or running is self._arriving
            or self._connection.on_shutdown is not None
        )

    def _measured(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _has_body(self) -> bool:
        fields = dict(self.headers)
        return b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0"

    def _close_after_answer(self) -> None:
        if self._deaf or self._arriving is self._running:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Closes once the client has read the answer: hears nothing more of it, but lets it send for a while."""
        self._deaf = self._lingers = True
        self._unset_keepalive_if_required()
        if not self.transport.is_closing():
            self.transport.write_eof()
            self.flow.resume_reading()
            self.loop.call_later(LINGER_S, self.transport.close)


class _Refused(Exception):
    """Ends the parser."""


def _too_large() -> Problem:
    return Problem(431, f"URL and headers are over {LARGEST_HEAD_BYTES // 1024} KiB: send less in them")


class EventWebSocket(WebSocketsSansIOProtocol):
    """WebSocket."""

    _connection: Connection | None = None

    async def run_asgi(self) -> None:
        """The request for a WebSocket goes to the application."""
        self._connection = Connection(self.transport)
        cast(dict[str, Any], self.scope)["extensions"][_EXTENSION] = {"connection": self._connection}
        await super().run_asgi()

    def shutdown(self) -> None:
        """The server stops: uvicorn closes with 1012, unless whoever has the WebSocket closes it."""
        if not _tell(self._connection):
            super().shutdown()


def connection_of(scope: Mapping[str, Any]) -> Connection | None:
    """The connection that a request came by; None where the server runs without these protocols."""
    extension = (scope.get("extensions") or {}).get(_EXTENSION)
    return extension["connection"] if extension else None


def _abandon(cycle: RequestResponseCycle) -> None:
    """Nobody hears its answer any more."""
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()


def _tell(connection: Connection | None) -> bool:
    if connection is None or connection.on_shutdown is None:
        return False
    connection.on_shutdown()
    return True
