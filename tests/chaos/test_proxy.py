"""The proxy: the faults rest on what it does to connections."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, ResponseError

from tests.chaos.proxy import LostAnswers, Proxy
from tests.servers import RedisServer
from tests.waiting import eventually

SCRIPT = "return redis.call('INCR', KEYS[1])"
SHA = hashlib.sha1(SCRIPT.encode()).hexdigest()


@pytest_asyncio.fixture
async def echo() -> AsyncIterator[Proxy]:
    """A proxy before a server that sends back what it is sent."""

    async def send_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(send_back, "127.0.0.1", 0)
    proxy = Proxy(*server.sockets[0].getsockname()[:2])
    await proxy.open()
    yield proxy
    await proxy.close()
    server.close()


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(proxy.host, proxy.port)


async def said(
    proxy: Proxy, words: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bytes:
    writer.write(words)
    return await reader.readexactly(len(words))


async def test_it_relays_and_cuts(echo: Proxy) -> None:
    """What is sent arrives both ways; a cut resets the connection, and the next one works."""
    reader, writer = await connect(echo)
    assert await said(echo, b"hello" * 50_000, reader, writer) == b"hello" * 50_000
    assert echo.connections == 1

    assert echo.cut() == 1
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    await eventually(lambda: echo.connections == 0)

    assert await said(echo, b"again", *await connect(echo)) == b"again"


async def test_it_refuses(echo: Proxy) -> None:
    """While it refuses, a new connection is reset before anything passes."""
    echo.refusing = True
    reader, writer = await connect(echo)
    with pytest.raises(OSError, match=r"reset|broken|incomplete"):
        await said(echo, b"hello", reader, writer)
    echo.refusing = False
    assert await said(echo, b"hello", *await connect(echo)) == b"hello"


async def test_it_slows(echo: Proxy) -> None:
    """A delay holds each piece, and a bandwidth all of them, until the network is mended."""
    reader, writer = await connect(echo)
    loop = asyncio.get_running_loop()
    for delay_s, bytes_per_s in ((0.1, 0), (0.0, 1000)):
        echo.delay_s, echo.bytes_per_s = delay_s, bytes_per_s
        began = loop.time()
        await said(echo, b"x" * 100, reader, writer)
        assert loop.time() - began >= 0.2, "a tenth of a second each way"
    echo.mend()
    assert (echo.delay_s, echo.bytes_per_s) == (0, 0)


async def test_it_falls_silent(echo: Proxy) -> None:
    """Nothing passes while it is silent, and nothing is lost of it."""
    reader, writer = await connect(echo)
    echo.silence()
    answer = asyncio.create_task(said(echo, b"hello", reader, writer))
    done, _ = await asyncio.wait({answer}, timeout=0.1)
    assert not done
    echo.mend()
    assert await answer == b"hello"


async def test_a_server_that_is_not_there() -> None:
    """A client of a proxy whose server is down is cut off, as if the server had refused."""
    proxy = Proxy("127.0.0.1", 1)
    await proxy.open()
    reader, _ = await connect(proxy)
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    await proxy.close()


@pytest_asyncio.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[tuple[Redis, Proxy]]:
    """A client that comes to Redis through a proxy, and asks once."""
    redis_server.flush()
    proxy = Proxy(redis_server.host, redis_server.port)
    await proxy.open()
    client = Redis(host=proxy.host, port=proxy.port, retry=Retry(NoBackoff(), 0))
    yield client, proxy
    await client.aclose()
    await proxy.close()


async def test_answers_are_lost_after_the_fact(
    client: tuple[Redis, Proxy], redis_server: RedisServer
) -> None:
    """Of a kind of call the first answer is lost, and every third after it, and Redis has carried each call out."""
    redis, proxy = client
    proxy.loss = LostAnswers({SHA: "count"}, {"count", "hincrby"}, every=3)
    await redis.script_load(SCRIPT)
    lost = []
    for k in range(7):
        try:
            assert await redis.evalsha(SHA, 1, "counter") == k + 1
        except ConnectionError:
            lost.append(k)
    with pytest.raises(ConnectionError):
        await redis.hincrby("hash", "field", 1)

    assert lost == [0, 3, 6]
    assert proxy.loss.lost == {"count": 3, "hincrby": 1}
    async with Redis(host=redis_server.host, port=redis_server.port) as direct:
        assert await direct.get("counter") == b"7"
        assert await direct.hget("hash", "field") == b"1"


async def test_a_call_that_was_not_carried_out_is_not_lost(client: tuple[Redis, Proxy]) -> None:
    """An error, such as that of a script that Redis does not have, arrives; the first answer after it is lost."""
    redis, proxy = client
    proxy.loss = LostAnswers({SHA: "count"}, {"count"}, every=3)
    await redis.script_flush()
    with pytest.raises(ResponseError):
        await redis.evalsha(SHA, 1, "counter")
    assert not proxy.loss.lost

    await redis.script_load(SCRIPT)
    with pytest.raises(ConnectionError):
        await redis.evalsha(SHA, 1, "counter")
    assert proxy.loss.lost == {"count": 1}
