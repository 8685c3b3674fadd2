"""One client connection: frames its requests, bounds them, and passes each to the fast lane or to uvicorn.

uvicorn's protocol object is used through asyncio's protocol methods only, and reaches the client through an
`InnerTransport`. It gets one request at a time: pipelined ones wait here, unparsed, until the one before is answered.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from common.web.handshake import secure
from common.web.inner_transport import InnerTransport
from common.web.phases import NEVER_S, Phase
from common.web.problems import Problem
from common.web.requests import HEAD_END, BadRequest, Head, RequestParser, check_target, not_http, too_large
from common.web.responses import encoded, status_line
from common.web.websocket_input import TOO_MUCH, Allowance
from common.web.writing import Writing

if TYPE_CHECKING:
    from common.web.front_door import FrontDoor

_INTERIM = b"HTTP/1.1 100 "
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


class Connection(asyncio.Protocol):
    """A client's connection. `make_inner` makes uvicorn's protocol for it, once there is a request for that.

    Attributes:
        address: The client's IP address.
        stopping: The server stops.
        whole: The request under way has come whole.
    """

    def __init__(self, door: "FrontDoor", make_inner: Callable[["Connection"], asyncio.Protocol]) -> None:
        self.address = ""
        self.stopping = False
        self.whole = False
        self._door = door
        self._make_inner = make_inner
        self._inner: asyncio.Protocol | None = None
        self._parser = RequestParser(door.limits)
        self._time = asyncio.get_running_loop().time
        self._phase = Phase.NEW
        self._since_s = self._time()  # the phase began, or the body went on
        self._unread = b""
        self._paused_by: frozenset[object] = frozenset()
        self._half_closed = self._streams = False
        self._holds = False  # the front door counts what is held for it
        self._writing: Writing
        self._securing: asyncio.Task[None] | None = None
        self._allowance: Allowance  # of a WebSocket
        self._head: Head
        self._left: int | None = 0  # bytes of the body that are to come; None: it is chunked
        self._answer_begins = 0  # bytes written before the answer to the request under way
        self._call: asyncio.Future[Any] | None = None  # the fast lane's

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._use(cast(asyncio.Transport, transport))
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        if self._door.tls is not None:
            self._enter(Phase.HANDSHAKE)
            self._transport.pause_reading()
            self._securing = asyncio.create_task(self._secure(self._door.tls))
        self._door.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was cut off."""
        self._door.leave(self)
        self._parser.close()
        self._unread = b""
        if self._securing is not None:
            self._securing.cancel()
        if self._call is not None:
            self._call.cancel()
        self._drop_inner()

    def data_received(self, data: bytes) -> None:
        """Some bytes of requests."""
        if self._phase is Phase.LINGER:
            self._throw_away(data)
            return
        self._unread = self._unread + data if self._unread else data
        self._proceed()
        if self._unread or self._holds:
            self._note_held()

    def eof_received(self) -> bool:
        """The client sends no more. It gets the answers that it waits for; a stream ends, since it has likely gone."""
        self._half_closed = True
        if self._door.tls is not None:
            return False  # TLS ends in both directions
        if self._phase is Phase.IDLE:
            return bool(self._unread)  # its turn comes
        return self._phase is Phase.ANSWER and not self._streams

    def pause_writing(self) -> None:
        """Much waits to be written."""
        self._writing.paused = True
        self._note_held()
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Little waits to be written."""
        self._writing.paused = False
        self._note_held()
        if self._inner is not None:
            self._inner.resume_writing()
        self._go_on()

    # Called by the front door and the server

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self._phase.busy

    def check(self, now_s: float) -> None:
        """Ends what takes too long. Called each second or so."""
        if self._transport.is_closing():
            return
        self._note_held()
        if self._writing.stalled_s(now_s) > self._door.limits.write_s:
            self._door.count("answer not read")
            self.cut_off()
        elif self._phase is Phase.UPGRADED:
            self._allowance.refill(self._door.limits.sweep_s)
            if (
                self._writing.written == self._answer_begins
                and now_s - self._since_s > self._door.limits.upgrade_s
            ):
                self._door.count("WebSocket without an answer")
                self.cut_off()
        elif now_s - self._since_s > self._longest_s():
            self._time_out()

    def cut_off(self) -> None:
        """Closes at once and throws away what waits to be written, in the kernel as well."""
        its_socket: socket.socket | None = self._transport.get_extra_info("socket")
        if its_socket is not None:
            with contextlib.suppress(OSError, ValueError):  # it is closed already
                its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def shutdown(self) -> None:
        """The server stops: closes now, or after the answer that is due."""
        self.stopping = True
        if not self.busy:
            self._transport.close()

    # Called by ASGI applications

    def streams(self) -> None:
        """The answer may take long: a client that sends no more counts as gone."""
        self._streams = True
        if self._half_closed:
            self._transport.close()

    def answered(self) -> None:
        """The request under way is answered; the next one has its turn after other connections."""
        if self._phase is not Phase.ANSWER or self._transport.is_closing():
            return
        self._enter(Phase.IDLE)
        self._streams = False
        self._call = None
        self._door.became_idle(self)
        if self.stopping or (self._half_closed and not self._unread):
            self._transport.close()
        elif self._unread:
            self._go_on()

    # Called by uvicorn, through its transport

    def write(self, data: bytes) -> None:
        """Writes to the client."""
        if self._phase is Phase.BODY and data.startswith(_INTERIM):
            self._answer_begins += len(data)
        self._writing.write(data)
        if self._writing.paused:
            self._note_held()

    def close(self) -> None:
        """Closes after what was written; if the client still sends, it has some time to read the answer."""
        if self._call is not None:
            self.stopping = True  # after the fast lane's answer
        elif self._phase in (Phase.BODY, Phase.LINGER) and not self.stopping:
            self._linger()
        else:
            self._transport.close()

    def pause_reading(self, who: object) -> None:
        """Reading stops until everybody who paused it resumes it."""
        if not self._paused_by:
            self._transport.pause_reading()
        self._paused_by |= {who}

    def resume_reading(self, who: object) -> None:
        """Takes a pause back."""
        if self._paused_by and not self._transport.is_closing():
            self._paused_by -= {who}
            self._since_s = self._time()
            if not self._paused_by:
                self._transport.resume_reading()

    def upgrade_to(self, protocol: asyncio.Protocol) -> None:
        """The connection is a WebSocket from now on."""
        self._inner = protocol
        limits = self._door.limits
        self._allowance = Allowance(limits.websocket_burst_bytes, limits.websocket_bytes_per_s)
        self._enter(Phase.UPGRADED)

    # TLS

    def _use(self, transport: asyncio.Transport, beneath: asyncio.Transport | None = None) -> None:
        self._transport = transport
        self._writing = Writing(transport, self._time(), beneath)

    async def _secure(self, context: ssl.SSLContext) -> None:
        """Makes the TLS handshake. Then requests may come."""
        within_s = self._door.limits.handshake_s
        try:
            secured = await secure(
                self._transport, self, context, within_s=within_s, take_early=self._take_unread
            )
        except OSError:
            self._door.count("TLS handshake failed")
            self._transport.abort()
            return
        if secured is not None:
            self._use(secured, beneath=self._transport)
            self._enter(Phase.NEW)
            self._proceed()

    def _take_unread(self) -> bytes:
        unread, self._unread = self._unread, b""
        return unread

    # Requests

    def _proceed(self) -> None:
        """Works on what was read, as far as it goes."""
        try:
            match self._phase:
                case Phase.IDLE if self._writing.paused:
                    pass  # its turn comes once the answers before are read
                case Phase.NEW | Phase.IDLE | Phase.HEAD:
                    self._read_head()
                case Phase.SMALL_BODY:
                    self._serve_or_pass()
                case Phase.BODY:
                    self._pass_body()
                case Phase.UPGRADED:
                    self._pass_frames()
        except BadRequest as bad:
            self._refuse(bad.problem)
        waits = self._phase in (Phase.ANSWER, Phase.IDLE, Phase.UPGRADED)
        if waits and len(self._unread) > self._door.limits.unread_bytes:
            self.pause_reading(self)
        elif self._paused_by:
            self.resume_reading(self)

    def _go_on(self) -> None:
        """The next request has its turn after other connections, once answers are read."""
        if self._unread and self._phase is Phase.IDLE and not self._writing.paused:
            asyncio.get_running_loop().call_soon(self._next_request)

    def _next_request(self) -> None:
        if self._phase is not Phase.IDLE or self._writing.paused or self._transport.is_closing():
            return
        self._proceed()
        if self._half_closed and not self.busy:
            self._transport.close()

    def _read_head(self) -> None:
        if self._unread[:1] in b"\r\n":
            self._unread = self._unread.lstrip(b"\r\n")
            if not self._unread:
                return
        end = self._unread.find(HEAD_END) + len(HEAD_END)
        if end < len(HEAD_END):
            self._wait_for_head()
            return
        if end > self._door.limits.head_bytes:
            raise too_large(self._door.limits)
        self._head = self._parser.read_head(self._unread[:end])
        self._left = self._head.length
        self._enter(Phase.SMALL_BODY)
        lane = self._door.fast_lane
        if lane is not None and lane.wants(self._head):
            self._serve_or_pass()
        else:
            self._pass_request()

    def _wait_for_head(self) -> None:
        if not self._unread[:1].isalpha():
            raise not_http()
        if len(self._unread) > self._door.limits.head_bytes:
            raise too_large(self._door.limits)
        if self._phase is not Phase.HEAD:
            self._enter(Phase.HEAD)

    def _serve_or_pass(self) -> None:
        """Has the fast lane serve a request once its body is there, or passes it to uvicorn."""
        end = self._head.size + (self._head.length or 0)
        if len(self._unread) < end:
            return
        lane = self._door.fast_lane
        assert lane is not None
        body = self._unread[self._head.size : end]
        self._call = lane.serve(self._head, body, self._respond)
        if self._call is None:
            self._pass_request()
            return
        self._parser.read_body(body)
        self._unread = self._unread[end:]
        self.whole = True
        self._enter(Phase.ANSWER)

    def _respond(self, first_line: bytes, rest: bytes) -> bool:
        """Writes the answer of the fast lane; False if the client has gone."""
        if self._transport.is_closing():
            return False
        self.write(b"%b%b%b" % (first_line, self._door.date_line, rest))
        self.answered()
        return True

    def _pass_request(self) -> None:
        """Passes the request to uvicorn: the head, and what has come of its body."""
        head = self._head
        check_target(head)
        if head.upgrade and head.has_body:
            raise BadRequest(
                400, "a request with a body can't ask for another protocol: send it without Upgrade"
            )
        self.whole = self._parser.complete
        self._enter(Phase.ANSWER if self.whole else Phase.BODY)
        self._answer_begins = self._writing.written
        self._pass(head.size)
        if self._phase is Phase.BODY:
            self._pass_body()
        elif self._phase is Phase.UPGRADED:
            self._pass_frames()

    def _pass_body(self) -> None:
        while self._unread and self._phase is Phase.BODY:
            size = len(self._unread) if self._left is None else min(self._left, len(self._unread))
            self.whole = self._parser.read_body(self._unread[:size])
            self._since_s = self._time()
            if self._left is not None:
                self._left -= size
            if self.whole:
                self._enter(Phase.ANSWER)
            self._pass(size)

    def _pass_frames(self) -> None:
        """Passes the bytes of a WebSocket client, or closes it where they are too many."""
        if not self._unread:
            return
        if self._allowance.take(len(self._unread)):
            self._pass(len(self._unread))
            return
        self._door.count("WebSocket closed: too much was sent")
        self._drop_inner()
        self.write(TOO_MUCH)
        self._linger()

    def _pass(self, size: int) -> None:
        data, self._unread = self._unread[:size], self._unread[size:]
        if self._inner is None:
            self._inner = self._make_inner(self)
            self._inner_transport = InnerTransport(self, self._transport)
            self._inner.connection_made(self._inner_transport)
        self._inner.data_received(data)

    # Ends

    def _refuse(self, problem: Problem) -> None:
        """Answers what can't be served, and ends the connection."""
        self._door.count(f"status {problem.status.value}")
        self._drop_inner()
        if self._phase is Phase.BODY and self._writing.written != self._answer_begins:
            self._transport.close()  # in the middle of another answer
            return
        answer = encoded(problem.response(), added_fields=b"connection: close\r\n")
        self.write(b"%b%b%b" % (status_line(problem.status.value), self._door.date_line, answer))
        self._linger()

    def _linger(self) -> None:
        """Closes once the client has read the answer: hears nothing more of it, but lets it send for a while."""
        if self._phase is Phase.LINGER or self._transport.is_closing():
            return
        self._enter(Phase.LINGER)
        self._unread = b""
        self._left = self._door.limits.linger_bytes
        self._paused_by = frozenset()
        self._transport.resume_reading()
        try:
            if self._transport.can_write_eof():
                self._transport.write_eof()
        except OSError:  # the client has just gone
            self._transport.close()

    def _throw_away(self, data: bytes) -> None:
        self._left = (self._left or 0) - len(data)
        if self._left < 0:
            self._transport.close()

    def _drop_inner(self) -> None:
        """Uvicorn has no part in this connection any more: its application hears that the client has gone."""
        if self._inner is not None:
            self._inner_transport.detach()
            self._inner.connection_lost(None)
            self._inner = None

    # Memory and times

    def _note_held(self) -> None:
        """Has the front door count what is held for this client, if it is much."""
        held = len(self._unread) + self._writing.waiting
        if held < self._door.limits.counted_bytes:
            held = 0
        if held or self._holds:
            self._holds = bool(held)
            self._door.held.note(self, held)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._since_s = self._time()

    def _longest_s(self) -> float:
        """How long this phase may last."""
        if self._call is not None and self._door.fast_lane is not None:
            return self._door.fast_lane.deadline_s
        if self._phase is Phase.BODY and self._paused_by:
            return NEVER_S  # the application does not read
        return self._phase.longest_s(self._door.limits)

    def _time_out(self) -> None:
        match self._phase:
            case Phase.HANDSHAKE:
                self.cut_off()
            case Phase.NEW | Phase.IDLE | Phase.LINGER:
                self._transport.close()
            case Phase.HEAD:
                self._refuse(Problem(408, "the head of the request did not come in time: send it again"))
            case Phase.BODY | Phase.SMALL_BODY:
                self._refuse(Problem(408, "the body of the request did not come in time: send it again"))
            case Phase.ANSWER if self._call is not None:
                self._call.cancel()
