"""Live events over real sockets: what comes, to whom, and what becomes of clients that are too slow."""

import asyncio
import contextlib
import errno
import json
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from common.broker.memory import MemoryBroker
from common.errors import Unavailable
from common.ledger.memory import MemoryLedger
from common.ledger.redis import RedisLedger
from common.ledger.values import Snapshot
from common.redis import CONNECTIONS, connect_redis
from common.settings import Settings
from common.tracking.port import Status
from common.web.keys.authenticator import KeyTiming
from common.web.limits import Limits
from common.web.operations import Scope
from gateway.live.limits import LiveLimits
from gateway.live.poller import Poller
from tests.gateway.streaming import NUMBER, Client, Streaming, client, created, publish, streaming
from tests.servers import RedisServer
from tests.waiting import eventually


async def closed(it: Any) -> tuple[int, str]:
    """Code and reason with which a WebSocket was closed."""

    async def read_on() -> None:
        while True:
            await it.recv()

    with pytest.raises(ConnectionClosed) as caught:
        await read_on()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


async def test_a_message_event_says_it_all() -> None:
    """Each step of a tracked message comes as one JSON object in an array, as documented."""
    async with streaming() as it, client(it) as one:
        it.tell(0, Status.QUEUED)
        it.tell(0, Status.SENT)

        assert await one.hears(lambda e: e.get("status") == "sent") == {
            "type": "message",
            "run": "a",
            "uuid": "a.0",
            "status": "sent",
            "attempt": 1,
            "at": "2026-11-21T17:33:10.123456Z",
            "number": NUMBER,
            "text": "hello",
            "time_s": 0.012345,
        }
        assert "time_s" not in one.of("message")[0]


async def test_filters_choose_messages_and_runs() -> None:
    """Each client hears what it asked for, in the order in which it was told, and statistics in any case."""
    async with (
        streaming() as it,
        client(it) as everything,
        client(it, "?run=b") as run,
        client(it, "?uuid=a.1") as message,
        client(it, "?status=failed") as failed,
    ):
        await publish(it.ledger, "a", 3, 1)
        await publish(it.ledger, "b", 3, 1)
        for seq in range(2):
            for name in "ab":
                it.tell(seq, Status.QUEUED, name)
                it.tell(seq, Status.FAILED, name)
        await everything.hears(lambda e: e.get("uuid") == "b.1" and e["status"] == "failed")
        await everything.hears(lambda e: e["type"] == "run" and e["run"] == "b")

        assert len(everything.messages) == 8
        assert run.messages == [("b.0", "queued"), ("b.0", "failed"), ("b.1", "queued"), ("b.1", "failed")]
        assert message.messages == [("a.1", "queued"), ("a.1", "failed")]
        assert failed.messages == [("a.0", "failed"), ("b.0", "failed"), ("a.1", "failed"), ("b.1", "failed")]
        for each in (everything, run, message, failed):
            await each.hears(lambda e: e["type"] == "statistics" and e["published"] == 6)
        assert {e["run"] for e in everything.of("run")} == {e["run"] for e in failed.of("run")} == {"a", "b"}
        assert {e["run"] for e in run.of("run")} == {"b"}
        assert {e["run"] for e in message.of("run")} == {"a"}


async def test_runs_are_told_when_they_move_and_once_more_when_over() -> None:
    """A run's progress comes when it moved; what stands still, or was over before, is not told again."""
    ledger = MemoryLedger()
    await publish(ledger, "old", 5, 5)
    async with streaming(ledger) as it, client(it) as one:
        await publish(ledger, "new", 10, 4)
        first = await one.hears(lambda e: e["type"] == "run")
        seen = len(one.of("statistics"))
        await eventually(lambda: len(one.of("statistics")) >= seen + 2)
        await publish(ledger, "new", 10, 10)
        last = await one.hears(lambda e: e["type"] == "run" and e["over"])
        seen = len(one.of("statistics"))
        await eventually(lambda: len(one.of("statistics")) >= seen + 2)

        assert (first["run"], first["progress"], first["total"], first["over"]) == ("new", 0.4, 10, False)
        assert (last["progress"], last["sent"], last["eta_s"]) == (1.0, 10, 0.0)
        assert one.of("run") == [first, last]


async def test_statistics_come_at_once_and_with_depths_and_shares() -> None:
    """The latest statistics are the first thing a client hears; the next ones come each second."""
    ledger = MemoryLedger()
    await ledger.heartbeat("sender-1", 100, 7)
    await publish(ledger, "a", 10, 4)
    await ledger.claim("a", np.arange(4, 6), redelivered=False)
    async with streaming(ledger) as it:
        await it.hub.poller.statistics()
        async with client(it) as one:
            stats = await one.hears(lambda e: e["type"] == "statistics")
            await eventually(lambda: len(one.of("statistics")) >= 3)

        assert stats["depths"]["sms_queue"] == 0
        assert stats["shares"] == [
            {"sender": "sender-1", "slots": 100, "in_flight": 2, "sent": 4, "failed": 0, "share": 1.0}
        ]
        assert (stats["published"], stats["queued"], stats["sent"], stats["senders"]) == (10, 4, 4, 1)


async def test_a_broker_or_ledger_that_is_away_ends_nothing() -> None:
    """Without the broker, depths are null; while the ledger is away, messages still come; then all goes on."""

    class AwayBroker(MemoryBroker):
        async def depths(self, refresh: bool = True) -> dict[str, int]:
            raise Unavailable("RabbitMQ is away")

    class AwayLedger(MemoryLedger):
        away = False
        looks_in_vain = 0

        async def snapshot(self, run: str | None = None) -> Snapshot:
            if self.away:
                self.looks_in_vain += run is None
                await asyncio.Event().wait()
            return await super().snapshot(run)

    ledger = AwayLedger()
    await publish(ledger, "a", 10, 4)
    async with streaming(ledger, AwayBroker(), patience_s=0.1) as it, client(it) as one:
        assert (await one.hears(lambda e: e["type"] == "statistics"))["depths"] is None
        ledger.away = True
        for path in ("/stats", "/runs", "/runs/a"):

            async def unavailable(path: str = path) -> bool:
                return (await it.get(path))[0] == 503

            await eventually(unavailable)
        await eventually(lambda: ledger.looks_in_vain > 1)  # what was under way has come to its end
        it.tell(1)
        await one.hears(lambda e: e.get("uuid") == "a.1")
        seen, looks = len(one.of("statistics")), ledger.looks_in_vain
        await eventually(lambda: ledger.looks_in_vain > looks + 2)
        it.tell(2)
        await one.hears(lambda e: e.get("uuid") == "a.2")
        assert len(one.of("statistics")) == seen
        ledger.away = False
        await publish(ledger, "a", 10, 10)
        await one.hears(lambda e: e["type"] == "statistics" and e["sent"] == 10)
        await one.hears(lambda e: e["type"] == "run" and e["over"])


async def test_a_redis_that_hangs_wedges_nothing(redis_server: RedisServer) -> None:
    """Polls that were given up, many more than there are connections, leave none of them taken."""
    redis_server.flush()
    settings = Settings(redis_host=redis_server.host, redis_port=redis_server.port)
    redis = await connect_redis(settings, 10)
    ledger = RedisLedger(redis)
    for number in range(20):
        await publish(ledger, f"run-{number}", 10, 4)
    impatient = Poller(ledger, MemoryBroker(), LiveLimits(patience_s=0.05))
    await redis.execute_command("CLIENT", "PAUSE", PAUSE_MS, "ALL")  # type: ignore[no-untyped-call]
    given_up = 0
    while given_up <= CONNECTIONS:
        given_up += (await impatient.poll()).statistics is None
    await publish(ledger, "run-0", 10, 10)
    assert (await Poller(ledger, MemoryBroker(), LiveLimits()).statistics()).sent == 86
    await ledger.close()


@pytest.mark.parametrize(
    ("query", "where"),
    [("?status=lost", "query.status"), ("?run=A", "query.run"), ("?uuid=x&status=no", "query.uuid")],
)
async def test_a_bad_filter_is_refused_by_name(query: str, where: str) -> None:
    """A WebSocket is closed with 1008 and the filter's name; an HTTP request gets a 422 that says the same."""
    async with streaming() as it:
        async with connect(it.address + query) as bad:
            code, reason = await closed(bad)
        status, problem = await it.get("/events" + query)

    assert code == 1008
    assert reason.startswith(where)
    assert status == 422
    assert where in [what["where"] for what in problem["errors"]]


async def test_a_key_that_may_read_is_needed() -> None:
    """No key 401, a key that may only send 403, as the handshake's answer; the subprotocol carries a browser's key."""
    async with streaming(required=True) as it:
        sender = await created(it, Scope.SEND)
        reader = await created(it, Scope.READ, Scope.ALL)
        for headers, status in (({}, 401), ({"X-API-Key": sender}, 403), ({"X-API-Key": "no-key"}, 401)):
            with pytest.raises(InvalidStatus) as caught:
                await connect(it.address, additional_headers=headers)
            assert caught.value.response.status_code == status
            assert json.loads(caught.value.response.body)["status"] == status
            assert (await it.get("/events", headers=headers))[0] == status
        async with client(it, additional_headers={"Authorization": f"Bearer {reader}"}) as one:
            await one.hears(lambda e: e["type"] == "statistics")
        async with client(it, subprotocols=["smsim.v1", f"key.{reader}"]) as browser:
            assert browser.socket.subprotocol == "smsim.v1"
            await browser.hears(lambda e: e["type"] == "statistics")


async def test_a_revoked_key_ends_its_streams() -> None:
    """A stream does not outlive its key: it is closed with 1008, or its last event says why."""
    async with streaming(required=True, keys=KeyTiming(kept_s=0.03, again_s=0.03), recheck_s=0.05) as it:
        headers = {"X-API-Key": await created(it, Scope.READ)}
        async with (
            connect(it.address, additional_headers=headers) as one,
            it.http.get("/events", headers=headers) as stream,
        ):
            await it.listeners(2)
            for key_id in list(await it.keys.all()):
                await it.keys.revoke(key_id)
            assert (await closed(one))[0] == 1008
            assert b"event: dropped" in await stream.content.read()


async def test_pages_of_other_origins_may_not_listen() -> None:
    """A page on another site can't open the WebSocket in its visitor's browser, unless its origin is allowed."""
    async with streaming(origins=frozenset({"https://friend.example"})) as it:
        for origin in ("https://evil.example", "null", f"http://127.0.0.1:{it.port + 1}"):
            with pytest.raises(InvalidStatus) as caught:
                await connect(it.address, origin=origin)  # type: ignore[arg-type]
            assert caught.value.response.status_code == 403
        for origin in ("https://friend.example", f"http://127.0.0.1:{it.port}"):
            async with client(it, origin=origin) as one:
                await one.hears(lambda e: e["type"] == "statistics")


async def test_server_sent_events_for_curl() -> None:
    """GET /events: a line with the type and a line with the JSON, an empty line after each; no caching."""
    async with streaming() as it, it.http.get("/events?run=a") as stream:
        await it.listeners(1)
        it.tell(0, run="b")
        it.tell(1, text="two\nlines")
        lines: list[str] = []
        async for line in stream.content:
            lines.append(line.decode())
            if lines[-2:-1] == ["event: message\n"]:
                break

    assert stream.status == 200
    assert stream.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert stream.headers["Cache-Control"] == "no-store"
    assert lines[:2] == ["retry: 2000\n", "\n"]
    event = json.loads(lines[-1].removeprefix("data: "))
    assert (event["type"], event["uuid"], event["text"]) == ("message", "a.1", "two\nlines")


async def test_a_silent_stream_gives_signs_of_life() -> None:
    """Where nothing happens a comment comes now and then, so that a dead connection shows."""
    async with streaming(heartbeat_s=0.02, poll_s=1000.0) as it, it.http.get("/events") as stream:
        async for line in stream.content:
            if line.startswith(b":"):
                break


async def test_head_says_what_get_would() -> None:
    """HEAD /events ends at once."""
    async with streaming() as it, it.http.head("/events") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert it.hub.subscribers == 0


async def test_clients_that_leave_are_forgotten() -> None:
    """Neither a goodbye nor a cut connection leaves a subscriber or a task behind."""
    async with streaming() as it:
        tasks = len(asyncio.all_tasks())
        async with client(it), it.http.get("/events"):
            await it.listeners(2)
            cut = await connect(it.address)
            await it.listeners(3)
            cut.transport.abort()
            await it.listeners(2)
        await it.listeners(0)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        assert not it.hub.dropped


async def test_no_more_clients_than_there_is_room_for() -> None:
    """Beyond the bound: 503 with Retry-After, and for a WebSocket a close with 1013, which a page can see."""
    async with streaming(subscribers=1) as it, client(it) as one:
        async with connect(it.address) as second:
            assert (await closed(second))[0] == 1013
        async with it.http.get("/events") as third:
            assert third.status == 503
            assert int(third.headers["Retry-After"]) > 0
        it.tell(1)
        await one.hears(lambda e: e.get("uuid") == "a.1")


PAUSE_MS = 2500
# Far more than may wait for a client; and less, but more than the kernel takes off our hands.
FLOOD_BYTES, PUDDLE_BYTES = 8_000_000, 1_200_000


@contextlib.contextmanager
def deaf(it: Streaming, request: bytes) -> Iterator[socket.socket]:
    """A client that asks for the events and reads nothing."""
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", it.port))
        deaf.sendall(request)
        deaf.setblocking(False)
        yield deaf


WEBSOCKET = (
    b"GET /events HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SSE = b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"


async def read_until(deaf: socket.socket, words: bytes) -> bytes:
    """What it reads up to these words."""
    heard = bytearray()
    while words not in heard[-1000:]:
        part = await asyncio.get_running_loop().sock_recv(deaf, 1000)
        assert part, "it ended, and the words did not come"
        heard += part
    return bytes(heard)


def heard_of(one: Client, uuid: str) -> bool:
    """Whether one of the latest events is of this message."""
    return any(event.get("uuid") == uuid for event in one.events[-500:])


async def flood(it: Streaming, good: Client, size: int = FLOOD_BYTES) -> int:
    """So many bytes of events, no faster than the good client reads. Returns how many events."""
    count = size // 1000
    for last in range(399, count, 400):
        for seq in range(last - 399, last + 1):
            it.tell(seq, text="x" * 1000)
        await eventually(partial(heard_of, good, f"a.{last}"))
    return count


@pytest.mark.parametrize("request_line", [WEBSOCKET, SSE])
async def test_a_client_that_is_too_slow_is_dropped_with_the_reason(request_line: bytes) -> None:
    """It hears why, after what was on its way already; the others miss nothing."""
    limits = Limits(write_s=600.0)
    async with streaming(limits=limits, stall_s=600.0, linger_s=600.0) as it, client(it) as good:
        with deaf(it, request_line) as slow:
            await it.listeners(2)
            count = await flood(it, good)
            heard = await read_until(slow, b"too slow: over 1024 KiB of events were waiting")
        await it.listeners(1)

        assert len(heard) < FLOOD_BYTES / 2
        assert it.hub.dropped == {1013: 1}
        assert good.messages == [(f"a.{seq}", "sent") for seq in range(count)]


@pytest.mark.parametrize("request_line", [WEBSOCKET, SSE])
async def test_a_client_that_takes_nothing_is_cut_off(
    request_line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """One that reads nothing for a while is cut off, however little waits for it; no socket, no task stays behind."""
    caplog.set_level("INFO")
    limits = Limits(write_s=600.0)
    async with (
        streaming(limits=limits, stall_s=1.0, linger_s=0.2, sweep_s=0.05) as it,
        client(it) as good,
    ):
        tasks = len(asyncio.all_tasks())
        with deaf(it, request_line) as slow:
            await it.listeners(2)
            await flood(it, good, PUDDLE_BYTES)
            await it.listeners(1)
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
            assert slow.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
        assert it.hub.dropped == {1013: 1}
        dropped = [vars(record) for record in caplog.records if record.message == "subscriber_dropped"]
        assert [record["reason"] for record in dropped] == ["too slow: nothing was read for 1 s"]


async def test_shutdown_ends_all_streams_at_once() -> None:
    """Open streams don't hold up a shutdown: 1001 for WebSockets, a last event for the others, deaf ones cut off."""
    async with contextlib.AsyncExitStack() as stack:
        it = await stack.enter_async_context(streaming())
        one = await stack.enter_async_context(connect(it.address + "?run=b"))
        other = await stack.enter_async_context(it.http.get("/events?run=b"))
        good = await stack.enter_async_context(client(it))
        slow = stack.enter_context(deaf(it, WEBSOCKET))
        await it.listeners(4)
        await flood(it, good)
        stopping = asyncio.create_task(it.stop())
        assert await closed(one) == (1001, "the gateway is shutting down")
        assert b"the gateway is shutting down" in (await other.content.read())[-200:]
        await stopping
        assert it.hub.subscribers == 0
        assert slow.fileno() >= 0


async def test_pings_without_end_end_the_connection() -> None:
    """Some are answered; a client that sends too many is closed with 1008, and holds up nobody."""
    ping = b"\x89\x80\x00\x00\x00\x00"
    async with streaming(poll_s=600.0) as it, client(it) as good:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        writer.write(WEBSOCKET)
        await reader.readuntil(b"\r\n\r\n")
        await it.listeners(2)
        writer.write(ping * 20)
        async with asyncio.timeout(60):
            assert await reader.readuntil(b"\x8a\x00" * 20)
            writer.write(ping * 100_000)
            heard = await reader.read()
        assert (1008).to_bytes(2, "big") + b"too much is sent here" in heard
        assert len(heard) < 100_000
        await it.listeners(1)
        it.tell(1)
        await good.hears(lambda e: e.get("uuid") == "a.1")
        writer.transport.abort()


async def test_what_clients_do_wrong_is_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A WebSocket without a key, with a text that is no UTF-8, a frame that is none, and one that has gone."""
    async with streaming(required=True) as refuses:
        with pytest.raises(InvalidStatus):
            await connect(refuses.address).__aenter__()
    async with streaming() as it:
        for frame in (b"\x81\x82\x00\x00\x00\x00\xff\xfe", b"\xff" * 20, b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
            writer.write(WEBSOCKET)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(frame)
            if frame:
                async with asyncio.timeout(60):
                    await reader.read()
            writer.transport.abort()
        await it.listeners(0)
    assert [record.message for record in caplog.records if record.levelname != "INFO"] == []
