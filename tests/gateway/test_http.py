"""HTTP/1.1 at its edges, on real sockets: pipelining, heads without end, early answers, clients that go."""

import asyncio
import contextlib
import gzip
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from common.web import routing
from common.web.bodies import read_body
from common.web.front_door import FrontDoor
from common.web.keys.authenticator import Authenticator
from common.web.keys.memory import MemoryApiKeys
from common.web.limits import Limits
from common.web.operations import Answer, Operation
from common.web.routing import Handler, routes_of
from common.web.server import serving
from tests.gateway.running import NUMBER, running
from tests.gateway.streaming import streaming
from tests.waiting import eventually

GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%b\r\n"
LIMIT_BYTES = 100_000
LARGEST_HEAD_BYTES = Limits().head_bytes


class Talk:
    """A client of one connection, in bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def say(self, *said: bytes) -> "Talk":
        self.writer.write(b"".join(said))
        await self.writer.drain()
        return self

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        async with asyncio.timeout(60):
            first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body

    async def at_end(self) -> bool:
        """Whether the server has ended the connection and no more answers come."""
        async with asyncio.timeout(60):
            return await self._reader.read() == b""

    async def is_cut_off(self) -> bool:
        """Whether the server ends the connection, politely or not."""
        async with asyncio.timeout(60):
            try:
                return await self._reader.read() == b""
            except ConnectionError:
                return True

    async def says_until_cut_off(self, said: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(60):
                while True:
                    await self.say(said)
                    await asyncio.sleep(0)

    async def heard(self, some: bytes) -> None:
        async with asyncio.timeout(60):
            await self._reader.readuntil(some)


async def talk(port: int) -> Talk:
    return Talk(*await asyncio.open_connection("127.0.0.1", port))


def operation_of(method: str, path: str, handler: Handler) -> Operation:
    return Operation(
        method=method,
        path=path,
        handler=handler,
        scope=None,
        tag="test",
        summary="test",
        answers={200: Answer("it")},
    )


class Served:
    """An application under test: /echo, /unread, and /held, which answers once it is let."""

    def __init__(self, **limits: Any) -> None:
        self.limits = Limits(**{"sweep_s": 0.02, **limits})
        self.port = 0
        self.let = asyncio.Event()
        self.held = 0

    async def echo(self, request: Request) -> Response:
        return Response(await read_body(request, LIMIT_BYTES))

    async def unread(self, _: Request) -> Response:
        return Response(b"no", 401)

    async def hold(self, _: Request) -> Response:
        self.held += 1
        await self.let.wait()
        return Response(b"at last")

    def app(self) -> Starlette:
        handlers = {"/echo": self.echo, "/unread": self.unread, "/held": self.hold}
        operations = [
            operation_of(method, path, handler)
            for path, handler in handlers.items()
            for method in ("GET", "POST")
        ]
        return Starlette(
            routes=routes_of(operations, Authenticator(MemoryApiKeys(), False, None), lambda *_: None)
        )


@contextlib.asynccontextmanager
async def serve(**limits: Any) -> AsyncIterator[Served]:
    served = Served(**limits)
    async with serving(served.app(), "127.0.0.1", 0, served.limits) as served.port:
        yield served
        served.let.set()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as served:
        yield served


def length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


@pytest.mark.parametrize("behind", [GET % (b"/runs", b""), GET % (b"/events", UPGRADE)])
async def test_a_stream_with_a_request_behind_it_ends_with_its_client(behind: bytes) -> None:
    """Its place is free again, as without one; also where that asks for a WebSocket."""
    async with streaming() as it:
        client = await (await talk(it.port)).say(GET % (b"/events", b""), behind)
        await client.heard(b"retry:")
        await eventually(lambda: it.hub.subscribers == 1)
        client.writer.transport.abort()
        await eventually(lambda: it.hub.subscribers == 0)


async def test_a_wait_with_a_request_behind_it_ends_with_its_client() -> None:
    """The same of GET /inbox/wait."""
    async with running(stand_in=True, sends=False) as it:
        inbox = it.gateway.inbox
        assert inbox is not None
        waits = GET % (b"/inbox/wait?to=358401234567&timeout=60", b"")
        client = await (await talk(it.port)).say(waits, GET % (b"/health", b""))
        await eventually(lambda: inbox.waiting == 1)
        client.writer.transport.abort()
        await eventually(lambda: inbox.waiting == 0)


async def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    """Those with bodies too, and the connection stays."""
    one, two = b"1" * 70_000, b"2"
    client = await talk(served.port)
    for _ in range(2):
        await client.say(POST % (b"/echo", length(one)), one, POST % (b"/echo", length(two)), two)
        await client.say(GET % (b"/unread", b""))
        answers = [await client.answer() for _ in range(3)]
        assert [(status, body) for status, _, body in answers] == [(200, one), (200, two), (401, b"no")]
        assert not any("connection" in headers for _, headers, _ in answers)


@pytest.mark.parametrize(("path_bytes", "header_bytes"), [(20, LARGEST_HEAD_BYTES), (LARGEST_HEAD_BYTES, 20)])
async def test_a_head_that_is_too_large_is_refused(
    served: Served, path_bytes: int, header_bytes: int
) -> None:
    """By a problem that says so, whether it is the URL or a header, and the connection ends."""
    path = b"/" + b"p" * path_bytes
    client = await (await talk(served.port)).say(GET % (path, b"X: %b\r\n" % (b"x" * header_bytes)))
    status, headers, body = await client.answer()
    assert (status, headers["content-type"]) == (431, "application/problem+json")
    assert headers["connection"] == "close"
    assert "64 KiB" in json.loads(body)["detail"]
    assert await client.at_end()


async def test_a_large_head_is_served(served: Served) -> None:
    """All that is below the limit, also behind a large body, also in several pieces."""
    large = b"X: %b\r\n" % (b"x" * (LARGEST_HEAD_BYTES - 1000))
    body = b"b" * LIMIT_BYTES
    client = await talk(served.port)
    await client.say(POST % (b"/echo", length(body) + large), body, GET % (b"/echo", large))
    assert (await client.answer())[2] == body
    assert (await client.answer())[0] == 200
    for piece in (b"GET /echo HTTP/1.1\r\nHost: localhost\r\n", large[:50], large[50:], b"\r\n"):
        await client.say(piece)
    assert (await client.answer())[0] == 200


@pytest.mark.parametrize(
    "begins",
    [
        b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"GET /",
        POST % (b"/echo", b"Transfer-Encoding: chunked\r\n") + b"1\r\na\r\n0\r\nX: ",
    ],
    ids=["header", "URL", "trailer"],
)
async def test_a_head_without_end_is_refused(served: Served, begins: bytes) -> None:
    """Not kept in memory until its client has said all: it never says it."""
    client = await (await talk(served.port)).say(begins)
    said = asyncio.create_task(client.say(b"x" * 20 * LARGEST_HEAD_BYTES))
    status, _, _ = await client.answer()
    assert status == 431
    assert await client.at_end()
    await asyncio.gather(said, return_exceptions=True)


async def test_many_small_headers_are_refused_too(served: Served) -> None:
    """What counts is all of them."""
    client = await (await talk(served.port)).say(GET % (b"/echo", b"A: b\r\n" * 20_000))
    assert (await client.answer())[0] == 431


@pytest.mark.parametrize("half_closes", [False, True])
@pytest.mark.parametrize(
    "said", [b"nonsense\r\n\r\n", GET % (b"/echo", b"X: %b\r\n" % (b"x" * LARGEST_HEAD_BYTES))]
)
async def test_what_is_refused_behind_a_request_does_not_disturb_it(
    served: Served, said: bytes, half_closes: bool
) -> None:
    """Its answer comes whole, also to a client that sends no more; then the refusal, and the end."""
    client = await (await talk(served.port)).say(GET % (b"/held", b""), said)
    if half_closes:
        client.writer.write_eof()
        await (await (await talk(served.port)).say(GET % (b"/unread", b""))).answer()
    await eventually(lambda: served.held == 1)
    served.let.set()
    assert (await client.answer())[2] == b"at last"
    assert (await client.answer())[0] in (400, 431)
    assert await client.at_end()


@pytest.mark.parametrize("in_two", [False, True])
async def test_a_body_is_not_lost_to_another_protocol(served: Served, in_two: bool) -> None:
    """A POST that asks for HTTP/2 is refused: its body would be skipped, or taken for a request of its own."""
    body = GET % (b"/unread", b"")
    head = POST % (b"/echo", b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + length(body))
    client = await (await talk(served.port)).say(*([head] if in_two else [head, body]))
    status, _, problem = await client.answer()
    assert (status, b"without Upgrade" in problem) == (400, True)
    if in_two:
        await client.say(body)
    assert await client.at_end()


async def test_a_get_may_ask_for_another_protocol(served: Served) -> None:
    """It is answered in this one, as RFC 9110 has it."""
    client = await (await talk(served.port)).say(
        GET % (b"/unread", b"Connection: Upgrade\r\nUpgrade: h2c\r\n")
    )
    assert (await client.answer())[0] == 401


async def test_nonsense_is_answered_by_a_problem(served: Served) -> None:
    """As all that is refused."""
    client = await (await talk(served.port)).say(b"nonsense\r\n\r\n")
    status, headers, _ = await client.answer()
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert await client.at_end()


@pytest.mark.parametrize("begins", [b"", b"Host: localhost\r\n"])
async def test_the_preface_of_http_2_is_refused(served: Served, begins: bytes) -> None:
    """The parser takes it for the beginning of a request that never ends; other clients are served all the same."""
    client = await (await talk(served.port)).say(b"PRI * HTTP/2.0\r\n%b\r\nSM\r\n\r\n" % begins)
    assert (await client.answer())[0] == 400
    assert await client.at_end()
    other = await (await talk(served.port)).say(GET % (b"/echo", b""))
    assert (await other.answer())[0] == 200


@pytest.mark.parametrize("path", [b"/echo", b"/unread"])
async def test_an_answer_before_the_body_is_there_is_the_last(path: bytes) -> None:
    """The client can read it though it sends on; what it sends is read no more after a while."""
    chunk = b"10000\r\n%b\r\n" % (b"c" * 0x10000)
    async with serve(linger_bytes=1024 * 1024, linger_s=600.0) as served:
        client = await (await talk(served.port)).say(
            POST % (path, b"Transfer-Encoding: chunked\r\n"), chunk, chunk
        )
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (413 if path == b"/echo" else 401, "close")
        await client.says_until_cut_off(chunk)


async def test_who_stops_sending_after_an_early_answer_is_let_go() -> None:
    """Its connection is not kept for the body that never came."""
    async with serve(linger_s=0.05) as served:
        client = await (await talk(served.port)).say(POST % (b"/unread", b"Content-Length: 9\r\n"))
        assert (await client.answer())[1]["connection"] == "close"
        assert await client.at_end()
        await client.says_until_cut_off(b"x")


@pytest.mark.parametrize("behind", [[], [b"ab"], [b"ab", b"cd"]])
async def test_a_client_that_sends_no_more_gets_its_answers(served: Served, behind: list[bytes]) -> None:
    """As `nc -N` does: all that it asked for, then the end."""
    requests = [GET % (b"/held", b""), *(POST % (b"/echo", length(body)) + body for body in behind)]
    client = await (await talk(served.port)).say(*requests)
    client.writer.write_eof()
    # So that the server has seen the end too when it answers, on this event loop.
    await eventually(lambda: served.held == 1)
    await (await (await talk(served.port)).say(GET % (b"/unread", b""))).answer()
    served.let.set()
    assert [(await client.answer())[2] for _ in requests] == [b"at last", *behind]
    assert await client.at_end()


async def test_a_body_that_breaks_off_is_not_waited_for(served: Served) -> None:
    """There is no answer to half a request."""
    client = await (await talk(served.port)).say(POST % (b"/echo", b"Content-Length: 9\r\n"), b"half")
    client.writer.write_eof()
    assert await client.at_end()


@pytest.mark.parametrize("half_closes_first", [True, False])
async def test_a_stream_ends_with_a_client_that_sends_no_more(half_closes_first: bool) -> None:
    """It has most likely gone."""
    async with streaming() as it:
        client = await talk(it.port)
        client.writer.write(GET % (b"/events", b""))
        if not half_closes_first:
            await client.heard(b"retry:")
        client.writer.write_eof()
        async with asyncio.timeout(60):
            await client._reader.read()
        await eventually(lambda: it.hub.subscribers == 0)


async def test_a_compressed_body_is_refused_as_such() -> None:
    """415 says what is wrong and what to do; what is not compressed may say so."""
    body = json.dumps({"number": NUMBER, "text": "hello"}).encode()
    async with running(sends=False) as it:
        for encoding, data, expected in (("gzip", gzip.compress(body), 415), ("identity", body, 202)):
            headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
            status, answer = await it.post("/sms", data=data, headers=headers)
            assert status == expected
        status, answer = await it.post(
            "/sms/batch", data=gzip.compress(body), headers={**headers, "Content-Encoding": "gzip"}
        )
        assert status == 415
        assert "without Content-Encoding" in answer["detail"]


async def test_a_request_that_the_end_leaves_no_time_hears_so(caplog: pytest.LogCaptureFixture) -> None:
    """503 as a problem, with Retry-After, and no traceback in the log."""
    served = Served(grace_s=0.05)
    with caplog.at_level(logging.INFO):
        async with serving(served.app(), "127.0.0.1", 0, served.limits) as port:
            client = await (await talk(port)).say(GET % (b"/held", b""))
            await eventually(lambda: served.held == 1)
        status, headers, body = await client.answer()
    assert (status, headers["content-type"]) == (503, "application/problem+json")
    assert (headers["retry-after"], headers["connection"]) == ("2", "close")
    assert "Idempotency-Key" in json.loads(body)["detail"]
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_request_that_is_cancelled_otherwise_is_not_answered() -> None:
    """Only the server's end is told as such."""

    async def handler(_: Request) -> Response:
        raise asyncio.CancelledError

    operation = operation_of("GET", "/it", handler)
    endpoint = routing.Endpoint(operation, Authenticator(MemoryApiKeys(), False, None), lambda *_: None)
    scope = {"type": "http", "method": "GET", "path": "/it", "query_string": b"", "headers": []}
    with pytest.raises(asyncio.CancelledError):
        await endpoint.answer(Request(scope))


async def test_many_pipelined_requests_wait_unparsed(served: Served) -> None:
    """However many come in one read, one at a time is worked on, and others have their turn."""
    pipelined = await (await talk(served.port)).say(GET % (b"/held", b"") * 10_000)
    await eventually(lambda: served.held == 1)
    other = await (await talk(served.port)).say(GET % (b"/unread", b""))
    assert (await other.answer())[0] == 401
    assert served.held == 1
    pipelined.writer.transport.abort()


@pytest.mark.parametrize(
    ("said", "answers"),
    [
        (b"", False),
        (b"GET /echo HTT", True),
        (GET % (b"/echo", b"X: y") + b"Z: ", True),
        (POST % (b"/echo", b"Content-Length: 9\r\n") + b"half", True),
        (GET % (b"/unread", b""), True),
    ],
    ids=["no byte", "half a line", "half a head", "half a body", "idle"],
)
async def test_a_client_that_keeps_the_server_waiting_is_let_go(said: bytes, answers: bool) -> None:
    """For a first byte, a head, the rest of a body, a next request: each has its time."""
    async with serve(
        first_byte_s=0.1, head_s=0.1, body_pause_s=0.1, keep_alive_s=0.1, linger_s=0.1
    ) as served:
        client = await (await talk(served.port)).say(said)
        if answers:
            assert (await client.answer())[0] in (401, 408)
        assert await client.at_end()


async def test_a_client_that_does_not_take_its_answer_is_cut_off() -> None:
    """What waits for it is not kept for as long as it likes."""
    gone = asyncio.Event()

    async def app(_: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        disconnected = asyncio.create_task(receive())
        while not disconnected.done():
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        gone.set()

    async with serving(app, "127.0.0.1", 0, Limits(sweep_s=0.02, write_s=0.2)) as port:
        client = await (await talk(port)).say(GET % (b"/", b""))
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(60):
            await gone.wait()


async def test_the_connection_that_is_idle_longest_makes_room(caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the limit it is closed, not one with a request under way; the log has one line for many."""
    async with serve(connections=3, report_s=0.0) as served:
        busy = await (await talk(served.port)).say(GET % (b"/held", b""))
        await eventually(lambda: served.held == 1)
        idle = await (await talk(served.port)).say(GET % (b"/unread", b""))
        await idle.answer()
        for _ in range(2):
            newest = await (await talk(served.port)).say(GET % (b"/unread", b""))
            assert (await newest.answer())[0] == 401
        assert await idle.is_cut_off()
        served.let.set()
        assert (await busy.answer())[2] == b"at last"
        await eventually(lambda: "clients_refused" in [record.message for record in caplog.records])


async def test_a_connection_that_cannot_be_checked_does_not_end_the_watch() -> None:
    """It is cut off; the others are checked all the same, again and again."""

    class Watched:
        address, busy, checks, is_cut_off = "10.0.0.1", True, 0, False

        def __init__(self, fails: bool) -> None:
            self.fails = fails

        def check(self, _: float) -> None:
            self.checks += 1
            if self.fails:
                raise OSError("the socket is not connected")

        def cut_off(self) -> None:
            self.is_cut_off = True

    door = FrontDoor(Limits(sweep_s=0.01))
    broken, fine = Watched(fails=True), Watched(fails=False)
    for connection in (broken, fine):
        door.admit(connection)  # type: ignore[arg-type]
    async with door.open():
        await eventually(lambda: broken.is_cut_off and fine.checks >= 2)
    assert not fine.is_cut_off


async def test_one_address_has_its_share_of_connections() -> None:
    """Where all of them are busy, the new one is closed."""
    async with serve(connections_per_address=2) as served:
        for _ in range(2):
            await (await talk(served.port)).say(GET % (b"/held", b""))
        await eventually(lambda: served.held == 2)
        assert await (await talk(served.port)).is_cut_off()


async def test_many_header_fields_are_refused(served: Served) -> None:
    """Counted as they come: each of them takes many times its bytes."""
    most = served.limits.head_fields
    for fields, expected in ((most - 1, 401), (most + 1, 431)):
        client = await (await talk(served.port)).say(GET % (b"/unread", b"a:b\r\n" * (fields)))
        status, _, body = await client.answer()
        assert status == expected
    assert str(most) in json.loads(body)["detail"]


async def test_a_request_behind_a_chunked_one_is_refused_with_it(served: Served) -> None:
    """Only what is answered may be followed: nothing of either is served, so nothing is served twice."""
    chunked = POST % (b"/echo", b"Transfer-Encoding: chunked\r\n") + b"1\r\na\r\n0\r\n\r\n"
    client = await (await talk(served.port)).say(chunked, GET % (b"/held", b""))
    assert (await client.answer())[0] == 400
    assert await client.at_end()
    client = await (await talk(served.port)).say(chunked)
    assert (await client.answer())[2] == b"a"
    await client.say(chunked)
    assert (await client.answer())[2] == b"a"


async def test_a_body_that_trickles_is_told_so() -> None:
    """408, and not that a server is away; each byte is in time, all of them are not."""
    served = Served()

    async def slow(request: Request) -> Response:
        return Response(await read_body(request, LIMIT_BYTES, within_s=0.1))

    served.echo = slow  # type: ignore[method-assign]
    async with serving(served.app(), "127.0.0.1", 0) as port:
        client = await (await talk(port)).say(POST % (b"/echo", b"Content-Length: 9\r\n"), b"h")
        status, headers, _ = await client.answer()
    assert (status, headers["connection"]) == (408, "close")
