"""gateway/api/fast_lane.py: it answers as the ordinary way does, byte for byte, and takes only what it knows."""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from common.sms.segments import segments
from common.tracking.port import Status
from common.web.bodies import SMALL_BYTES, decoded, media_type, read_body
from common.web.guard import Guard
from common.web.keys.authenticator import Authenticator
from common.web.keys.memory import MemoryApiKeys
from common.web.keys.port import Caller
from common.web.limits import Limits
from common.web.operations import JSON, Answer, Operation, Scope
from common.web.problems import Problem
from common.web.responses import json_response
from common.web.routing import routes_of
from common.web.server import serving
from gateway.acceptance.port import IdempotencyKey
from gateway.acceptance.receipts import Receipt
from gateway.api.fast_lane import FastLane
from gateway.api.idempotency import key_of_request
from gateway.api.messages import headers_of
from gateway.api.schemas import Accepted, SmsIn
from tests.gateway.running import KEY, NUMBER
from tests.waiting import eventually

BODY = b'{"number": "%b", "text": "hello"}' % NUMBER.encode()
HOST = b"Host: localhost\r\n"
BEARER = b"Authorization: Bearer %b\r\n" % KEY.encode()
TYPE = b"Content-Type: application/json\r\n"

_decoder = msgspec.json.Decoder(SmsIn)


class Messages:
    """Accepts at once, fails with `problem`, or never answers where `silent`; notes which way each message came."""

    def __init__(self) -> None:
        self.fast: list[bool] = []
        self.futures: list[asyncio.Future[Receipt]] = []
        self.problem: Problem | None = None
        self.silent = False

    def checked(self, body: bytes) -> SmsIn:
        return decoded(body, _decoder)

    def submit(self, sms: SmsIn, caller: Caller, key: IdempotencyKey | None) -> "asyncio.Future[Receipt]":
        self.fast.append(asyncio.current_task() is None)
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.futures.append(receipt)
        if self.problem is not None:
            receipt.set_exception(self.problem)
        elif not self.silent:
            receipt.set_result(Receipt("a-run.0", is_replayed=key is not None))
        return receipt

    def accepted(self, receipt: Receipt, sms: SmsIn, caller: Caller) -> bytes:
        return msgspec.json.encode(
            Accepted(receipt.id, sms.number, sms.text, Status.QUEUED, segments(sms.text))
        )

    async def post(self, request: Request) -> Response:
        """The ordinary way."""
        media_type(request, JSON)
        body = await read_body(request, SMALL_BYTES)
        sms = self.checked(body)
        caller = request.state.caller
        receipt = await self.submit(sms, caller, key_of_request(request, body))
        return json_response(self.accepted(receipt, sms, caller), 202, headers_of(receipt))


class Served:
    """POST /sms on two ports: with the fast lane, and without."""

    def __init__(self) -> None:
        self.messages = Messages()
        self.observed: list[tuple[str, str, int]] = []
        self.fast_port = self.slow_port = 0

    @contextlib.asynccontextmanager
    async def serving(self, deadline_s: float | None = None, head_s: float = 10.0) -> AsyncIterator["Served"]:
        authenticator = Authenticator(MemoryApiKeys(), True, KEY)
        operation = Operation(
            method="POST",
            path="/sms",
            handler=self.messages.post,
            scope=Scope.SEND,
            tag="",
            summary="",
            answers={202: Answer("")},
        )
        routes = routes_of([operation], authenticator, self._observe)
        guard = Guard(Starlette(routes=routes), frozenset({"localhost"}), frozenset())
        lane = FastLane(self.messages, authenticator, guard, self._observe)
        lane.deadline_s = deadline_s or lane.deadline_s
        limits = Limits(sweep_s=0.02, head_s=head_s)
        async with (
            serving(guard, "127.0.0.1", 0, limits, fast_lane=lane) as self.fast_port,
            serving(guard, "127.0.0.1", 0, limits) as self.slow_port,
        ):
            await self.ask(self.slow_port, request())  # so that the key is known
            self.messages.fast.clear()
            self.observed.clear()
            yield self

    def _observe(self, path: str, method: str, status: int, _: float) -> None:
        self.observed.append((path, method, status))

    async def ask(self, port: int, *said: bytes, pause: bool = False) -> bytes:
        """The answer to a request, without its date; the end of the connection is not waited for."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in said:
            writer.write(piece)
            await writer.drain()
            if pause:
                await (await asyncio.open_connection("127.0.0.1", port))[0].read(0)
        async with asyncio.timeout(60):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
        writer.close()
        return re.sub(rb"date: [^\r]*", b"date: -", head) + body


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with Served().serving() as served:
        yield served


def request(
    body: bytes = BODY, fields: bytes = HOST + BEARER + TYPE, line: bytes = b"POST /sms HTTP/1.1"
) -> bytes:
    return b"%b\r\n%bContent-Length: %d\r\n\r\n%b" % (line, fields, len(body), body)


ORDINARY = {
    "as curl sends it": (
        request(fields=HOST + BEARER + TYPE + b"User-Agent: curl/8\r\nAccept: */*\r\n"),
        True,
    ),
    "X-API-Key": (
        request(fields=HOST + TYPE + b"X-API-Key: %b\r\n" % KEY.encode()),
        False,
    ),  # not seen before
    "charset": (request(fields=HOST + BEARER + b"Content-Type: application/json; charset=utf-8\r\n"), True),
    "another host": (request(fields=b"Host: evil.example\r\n" + BEARER + TYPE), False),
    "no key": (request(fields=HOST + TYPE), False),
    "a wrong key": (request(fields=HOST + TYPE + BEARER.replace(b"tests", b"fools")), False),
    "a foreign origin": (request(fields=HOST + BEARER + TYPE + b"Origin: https://evil.example\r\n"), False),
    "a key for repeats": (request(fields=HOST + BEARER + TYPE + b"Idempotency-Key: 1\r\n"), True),
    "a long key": (request(fields=HOST + BEARER + TYPE + b"Idempotency-Key: %b\r\n" % (b"k" * 256)), False),
    "no JSON": (request(body=b"{"), False),
    "wrong JSON": (request(body=b'{"number": 1, "txt": ""}'), False),
    "another type": (request(fields=HOST + BEARER + b"Content-Type: text/plain\r\n"), False),
    "compressed": (request(fields=HOST + BEARER + TYPE + b"Content-Encoding: gzip\r\n"), False),
    "no body": (request(body=b""), False),
    "a query": (request(line=b"POST /sms?a=1 HTTP/1.1"), False),
    "the last request": (request(fields=HOST + BEARER + TYPE + b"Connection: close\r\n"), False),
    "a key twice": (request(fields=HOST + BEARER + BEARER + TYPE), False),
}


@pytest.mark.parametrize(("said", "is_fast"), ORDINARY.values(), ids=ORDINARY)
async def test_the_answer_is_the_same_byte_for_byte(served: Served, said: bytes, is_fast: bool) -> None:
    """Whichever way it goes; what is accepted by the fast lane is counted as by the other."""
    fast = await served.ask(served.fast_port, said)
    ways = list(served.messages.fast)
    slow = await served.ask(served.slow_port, said)
    assert fast == slow
    assert (ways == [True]) == is_fast
    first, second = served.observed or [("", "", 0)] * 2
    assert first == second


async def test_a_problem_is_the_same_byte_for_byte(served: Served) -> None:
    """Where the message is not accepted after all."""
    served.messages.problem = Problem(503, "Redis is away", retry_after_s=2)
    assert await served.ask(served.fast_port, request()) == await served.ask(served.slow_port, request())
    assert served.messages.fast == [True, False]
    assert [status for _, _, status in served.observed] == [503, 503]


async def test_a_request_in_pieces_is_fast_all_the_same(served: Served) -> None:
    """Clients that send head and body in two writes are common."""
    said = request()
    for cut in (10, len(said) - len(BODY), len(said) - 5):
        await served.ask(served.fast_port, said[:cut], said[cut:], pause=True)
    assert served.messages.fast == [True] * 3


async def test_requests_on_one_connection_go_either_way(served: Served) -> None:
    """In turn, and pipelined: the answers come in order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.fast_port)
    slow = request(fields=HOST + BEARER + TYPE + b"Expect: something\r\n")
    writer.write(request() + slow + request() + slow + request(body=b"{"))
    statuses = []
    async with asyncio.timeout(60):
        for _ in range(5):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            statuses.append(int(head.split()[1]))
    writer.close()
    assert statuses == [202, 202, 202, 202, 400]
    assert served.messages.fast == [True, False, True, False]


async def test_a_client_that_goes_gives_its_message_up(served: Served) -> None:
    """Its future is cancelled, and nothing counts as answered: 503 is for what the gateway could not do."""
    served.messages.silent = True
    served.messages.futures.clear()
    _, writer = await asyncio.open_connection("127.0.0.1", served.fast_port)
    writer.write(request())
    await eventually(lambda: served.messages.futures)
    # A reset: the mere end of what it sends may mean that it waits for its answer.
    its_socket = writer.get_extra_info("socket")
    its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    await eventually(lambda: served.messages.futures[0].cancelled())
    served.messages.silent = False
    await served.ask(served.fast_port, request())
    assert [status for _, _, status in served.observed] == [202]


async def test_a_message_that_takes_too_long_is_answered_503() -> None:
    """As the ordinary way has it."""
    async with Served().serving(deadline_s=0.1) as served:
        served.messages.silent = True
        answer = await served.ask(served.fast_port, request())
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"did not answer in time" in answer
        assert served.observed == [("/sms", "POST", 503)]


async def test_the_end_of_the_server_waits_for_the_answer() -> None:
    """What is under way in the fast lane is answered before the server stops."""
    served = Served()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(served.serving())
        served.messages.silent = True
        served.messages.futures.clear()
        asking = asyncio.create_task(served.ask(served.fast_port, request()))
        await eventually(lambda: served.messages.futures)
        stopping = asyncio.create_task(stack.aclose())
        served.messages.futures[0].set_result(Receipt("a-run.1"))
        assert (await asking).startswith(b"HTTP/1.1 202 ")
        await stopping


async def test_a_body_that_does_not_come_in_time_is_answered_408() -> None:
    """And not 503, which would say that a server is away."""
    async with Served().serving(head_s=0.1) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.fast_port)
        writer.write(request()[: -len(BODY)])
        async with asyncio.timeout(60):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 408 ")
        writer.close()
