"""common/web/connection.py: what a client that does not read, or sends too much, can make the server hold and do."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from common.web.connection import Connection
from common.web.fast_lane import Respond
from common.web.front_door import FrontDoor
from common.web.held import HeldBytes
from common.web.limits import Limits
from common.web.requests import Head
from common.web.server import serving
from tests.gateway.test_http import GET, POST, UPGRADE, Talk, serve, talk
from tests.waiting import eventually

ANSWER_BYTES = 4 * 1024 * 1024


class FakeTransport(asyncio.Transport):
    """Keeps what is written, as for a client that reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.said = bytearray()
        self.reads = True

    def write(self, data: Any) -> None:
        self.said += data

    def get_write_buffer_size(self) -> int:
        return len(self.said)

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


class Lane:
    """Answers each POST at once."""

    deadline_s = 600.0

    def __init__(self) -> None:
        self.served = 0

    def wants(self, head: Head) -> bool:
        return head.method == b"POST"

    def serve(self, head: Head, body: bytes, respond: Respond) -> "asyncio.Future[Any]":
        self.served += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        future.add_done_callback(
            lambda _: respond(b"HTTP/1.1 202 Accepted\r\n", b"content-length: 0\r\n\r\n")
        )
        return future


def refuse_inner(_: Connection) -> asyncio.Protocol:
    raise AssertionError("the fast lane serves them all")


async def turns() -> None:
    """Lets everything happen that is due."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_requests_wait_while_answers_are_not_read() -> None:
    """The fast lane serves no request for a client whose answers only pile up; it goes on once they are read."""
    lane, transport, limits = Lane(), FakeTransport(), Limits()
    connection = Connection(FrontDoor(limits, lane), refuse_inner)
    connection.connection_made(transport)
    request = POST % (b"/sms", b"Content-Length: 2\r\n") + b"{}"
    connection.data_received(request * 3)
    connection.pause_writing()
    await turns()
    assert lane.served == 1
    more = limits.unread_bytes // len(request) + 1
    connection.data_received(request * more)
    await turns()
    assert (lane.served, transport.reads) == (1, False)
    connection.resume_writing()
    await eventually(lambda: (lane.served, transport.reads) == (3 + more, True))


class Known:
    """A connection that the front door knows."""

    def __init__(self, address: str, busy: bool) -> None:
        self.address, self._busy, self.looks, self.is_cut_off = address, busy, 0, False

    @property
    def busy(self) -> bool:
        self.looks += 1
        return self._busy

    def cut_off(self) -> None:
        self.is_cut_off = True


async def test_newcomers_cost_little_where_most_are_busy() -> None:
    """Each looks at a bounded number of connections; the next ones look at others, and find the idle one."""
    door = FrontDoor(Limits(connections_per_address=1_000))
    known = [Known("10.0.0.1", busy=place != 500) for place in range(1_000)]
    for connection in (*known, Known("10.0.0.2", busy=False)):
        door.admit(connection)  # type: ignore[arg-type]
    newcomers = 0
    while not known[500].is_cut_off:
        newcomer = Known("10.0.0.1", busy=False)
        looks = sum(connection.looks for connection in known)
        door.admit(newcomer)  # type: ignore[arg-type]
        assert sum(connection.looks for connection in known) - looks <= 100
        if newcomer.is_cut_off:
            door.leave(newcomer)  # type: ignore[arg-type]
        newcomers += 1
    assert newcomers == 6


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 100)), max_size=50))
def test_held_bytes_stay_below_their_bound(notes: list[tuple[int, int]]) -> None:
    """Whatever is noted for whom; dropped are those that something is held for longest, and nobody without need."""
    dropped: list[int] = []
    held: HeldBytes[int] = HeldBytes(200, dropped.append)
    expected: dict[int, int] = {}
    for client, size in notes:
        expected[client] = size
        if not size:
            del expected[client]
        wanted: list[int] = []
        while sum(expected.values()) > 200:
            wanted.append(next(iter(expected)))
            del expected[wanted[-1]]
        held.note(client, size)
        assert dropped == wanted
        assert held.total == sum(expected.values()) <= 200
        dropped.clear()


@contextlib.asynccontextmanager
async def deaf(port: int, said: bytes) -> AsyncIterator[socket.socket]:
    """A client that reads nothing, with small buffers in the kernel."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        await asyncio.get_running_loop().sock_sendall(client, said)
        yield client


class Crowd:
    """Clients that read nothing, and those of them that were cut off."""

    def __init__(self) -> None:
        self.clients: list[socket.socket] = []
        self._cut_off: set[int] = set()

    def cut_off(self) -> set[int]:
        """Their places in the order of their coming. A socket tells its error once."""
        for place, client in enumerate(self.clients):
            if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._cut_off.add(place)
        return self._cut_off


async def answer_much(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with much at /much, and with little elsewhere."""
    body = b"x" * ANSWER_BYTES if scope["path"] == "/much" else b"little"
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def test_unread_answers_are_held_up_to_a_bound() -> None:
    """Of many that read nothing, those that were first are cut off; an honest client gets its answer."""
    clients, held = 12, 3
    limits = Limits(held_bytes=held * ANSWER_BYTES, write_s=600.0)
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(answer_much, "127.0.0.1", 0, limits))
        crowd = Crowd()
        for _ in range(clients):
            crowd.clients.append(await stack.enter_async_context(deaf(port, GET % (b"/much", b""))))
        await eventually(lambda: crowd.cut_off() >= set(range(clients - held - 1)))
        honest = await (await talk(port)).say(GET % (b"/", b""))
        assert (await honest.answer())[2] == b"little"


async def test_half_heads_are_held_up_to_a_bound() -> None:
    """The same of what clients have sent, and the server can't work on yet."""
    head = b"GET /unread HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 60_000
    async with serve(held_bytes=300_000, head_s=600.0) as served:
        crowd = [await (await talk(served.port)).say(head) for _ in range(10)]
        for first in crowd[:5]:
            assert await first.is_cut_off()
        await crowd[-1].say(b"\r\n\r\n")
        assert (await crowd[-1].answer())[0] == 401


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (GET % (b"/unread?" + b"a=&" * 3_000, b""), 414),
        (GET % (b"/unread?" + b"a=&" * 3_000, UPGRADE), 414),
        (GET % (b"/unread", UPGRADE + b"Sec-WebSocket-Protocol: " + b"key.," * 2_000 + b"\r\n"), 431),
    ],
    ids=["query", "query of a WebSocket", "field of a WebSocket"],
)
async def test_long_parts_of_a_head_are_refused(request_head: bytes, status: int) -> None:
    """They would hold the event loop for long, or have no answer."""
    async with serve() as served:
        client = await (await talk(served.port)).say(request_head)
        assert (await client.answer())[0] == status
        assert await client.at_end()


async def test_a_websocket_that_nobody_answers_is_cut_off() -> None:
    """Whatever uvicorn has against its request: here a field that is too long for it."""
    async with serve(upgrade_s=0.1, upgrade_field_bytes=60_000) as served:
        client = await (await talk(served.port)).say(
            GET % (b"/unread", UPGRADE + b"X: " + b"x" * 9_000 + b"\r\n")
        )
        assert await client.is_cut_off()


@pytest.mark.parametrize("expects", [b"Expect: 100-continue\r\n", b""])
async def test_a_body_that_stalls_is_told_so(expects: bytes) -> None:
    """408, also after `100 Continue`, and then the end."""
    async with serve(body_pause_s=0.1) as served:
        client = await (await talk(served.port)).say(POST % (b"/echo", b"Content-Length: 9\r\n" + expects))
        if expects:
            assert (await client.answer())[0] == 100
        status, headers, body = await client.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert "body" in json.loads(body)["detail"]
        assert await client.at_end()


async def test_a_body_after_100_continue_is_served() -> None:
    """As any other."""
    async with serve() as served:
        client: Talk = await talk(served.port)
        await client.say(POST % (b"/echo", b"Content-Length: 4\r\nExpect: 100-continue\r\n"))
        assert (await client.answer())[0] == 100
        await client.say(b"body")
        assert (await client.answer())[2] == b"body"
