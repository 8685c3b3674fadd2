"""Callbacks from the gateway's dispatcher to real receivers on this machine, on the memory ledger and tracker."""

import asyncio
import hashlib
import hmac
import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from redis.asyncio import Redis

from common.ledger.memory import MemoryLedger
from common.ledger.values import Outcomes
from common.messages import Message, Outcome
from common.tracking.memory import MemoryTracker
from common.tracking.port import Record, Status, Step
from gateway.callbacks import dispatcher as module
from gateway.callbacks import posting, turns
from gateway.callbacks.dispatcher import LEASE_S, TRIES, Dispatcher
from gateway.callbacks.memory import MemoryCallbacks
from gateway.callbacks.names import Names
from gateway.callbacks.port import Callbacks, Ending, Owed
from gateway.callbacks.posting import Answer, Poster
from gateway.callbacks.redis import RedisCallbacks
from gateway.callbacks.turns import Standing
from tests.servers import RedisServer
from tests.waiting import eventually

IN_FLIGHT_A_HOST = Standing.WELL.under_way
RUN, SECRET = "posted", "a secret of the operator's"
TTL_S = 3600.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Call:
    """A request that a receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.body)
        return said

    @property
    def delivery(self) -> str:
        return self.headers["X-Smsim-Delivery"]


@dataclass
class Receiver:
    """Answers as it is told to, 204 by default, and notes what it got."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    handler: Handler | None = None
    calls: list[Call] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(Call(request.path_qs, dict(request.headers), await request.read()))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.handler is not None:
                return await self.handler(request)
            return web.Response(status=self.status, headers=self.headers)
        finally:
            self.at_once -= 1

    @property
    def uuids(self) -> list[str]:
        return [call.said["uuid"] for call in self.calls]

    @asynccontextmanager
    async def listening(self, host: str = "127.0.0.1") -> AsyncIterator["Receiver"]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await (site := web.TCPSite(runner, host, 0)).start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.url = f"http://{host}:{port}/hook?key=k1"
        try:
            yield self
        finally:
            await runner.cleanup()


class Bench:
    """A dispatcher, or several, on one store; the ledger and the tracker tell what became of messages."""

    def __init__(self, callbacks: Callbacks, leap: Callable[[float], None]) -> None:
        self.callbacks = callbacks
        self.leap = leap
        self.ledger, self.tracker = MemoryLedger(), MemoryTracker()
        self.dispatcher = self.another()
        self.seqs = 0

    def another(self, allow_private: bool = True) -> Dispatcher:
        return Dispatcher(self.callbacks, self.tracker, self.ledger, SECRET, allow_private)

    @asynccontextmanager
    async def running(self, *dispatchers: Dispatcher) -> AsyncIterator[None]:
        dispatchers = dispatchers or (self.dispatcher,)
        tasks = [asyncio.create_task(dispatcher.run()) for dispatcher in dispatchers]
        listeners = sum(dispatcher._secret is not None for dispatcher in dispatchers)
        await eventually(lambda: len(self.tracker._listeners._buffers) == listeners)
        try:
            yield
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def posted(self, url: str | None, count: int = 1, by: Dispatcher | None = None) -> list[Record]:
        """Messages that are accepted: announced, known to the tracker, their callbacks owed."""
        records = [
            Record(
                run=RUN,
                message=Message(self.seqs + k, "+541166587382", "Water is rising"),
                accepted_us=time.time_ns() // 1000,
                callback_url=url,
            )
            for k in range(count)
        ]
        await self.ledger.announce(RUN, self.seqs, count)
        self.seqs += count
        await self.tracker.open(records)
        called_back = [record for record in records if record.callback_url is not None]
        await self.callbacks.owe(called_back)
        (by or self.dispatcher).expect([record.uuid for record in called_back])
        return records

    async def settle(self, records: list[Record], outcome: Outcome = Outcome.SENT) -> None:
        """As a sender does, as far as the ledger."""
        seqs = np.array([record.seq for record in records], np.int64)
        await self.ledger.claim(RUN, seqs, False)
        outcomes = np.full(seqs.size, outcome, np.uint8)
        await self.ledger.settle(RUN, Outcomes(seqs, outcomes, np.full(seqs.size, 1000, np.int64)))

    def tell(self, records: list[Record], status: Status = Status.SENT, attempt: int = 1) -> None:
        """As a sender does afterwards."""
        self.tracker.publish([step(record, status, attempt) for record in records])

    async def sent(self, records: list[Record]) -> None:
        await self.settle(records)
        self.tell(records)

    @property
    def owed(self) -> list[str]:
        """What is owed, in somebody's hands or not."""
        assert isinstance(self.callbacks, MemoryCallbacks)
        return list(self.callbacks._kept)

    def leased(self, but: str = "") -> bool:
        """Whether a callback is in somebody's hands, those to this address left out."""
        assert isinstance(self.callbacks, MemoryCallbacks)
        kept = self.callbacks._kept.values()
        return any(it.lease and it.record.callback_url != but for it in kept)

    async def looked_at(self) -> bool:
        """Whether all that was due has been looked at, and given back."""
        return not self.leased() and not await self.callbacks.due(1)

    def later(self, seconds: float, hanging: str = "") -> bool:
        """For conditions: some time passes, and that alone fulfils none. Not while callbacks are in somebody's hands,
        or leases would pass on a slow machine; but those to an address that hangs.
        """
        if not self.leased(but=hanging):
            self.leap(seconds)
        return False


def step(record: Record, status: Status, attempt: int = 1, at_us: int = 1_795_000_000_123_456) -> Step:
    return Step(
        run=record.run,
        message=record.message,
        status=status,
        attempt=attempt,
        at_us=at_us,
    )


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.02)
    now = [1_000_000.0]

    def leap(seconds: float) -> None:
        now[0] += seconds

    return Bench(MemoryCallbacks(TTL_S, lambda: now[0]), leap)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().listening() as receiver:
        yield receiver


async def calls(receiver: Receiver, count: int) -> list[Call]:
    await eventually(lambda: len(receiver.calls) >= count, describe=f"{count} calls")
    assert len(receiver.calls) == count
    return receiver.calls


@pytest.mark.parametrize(
    ("outcome", "status"), [(Outcome.SENT, Status.SENT), (Outcome.FAILED, Status.FAILED)]
)
async def test_the_end_of_a_message_is_told_signed(
    bench: Bench, receiver: Receiver, outcome: Outcome, status: Status
) -> None:
    """A POST of all but the text, which a receiver can prove to be ours and fresh; then nothing is owed any more."""
    async with bench.running():
        began_s = int(time.time())
        (record,) = await bench.posted(receiver.url)
        bench.tell([record], Status.SENDING)
        await bench.settle([record], outcome)
        bench.tell([record], status, attempt=3)
        (call,) = await calls(receiver, 1)
        await eventually(lambda: not bench.owed)
    assert call.path == "/hook?key=k1"
    assert call.headers["Content-Type"] == "application/json"
    assert call.delivery == f"{record.uuid}.{status}"
    assert call.said == {
        "uuid": record.uuid,
        "run": RUN,
        "status": status,
        "number": "+541166587382",
        "attempts": 3,
        "at": "2026-11-18T11:06:40.123456Z",
    }
    # As the documentation says, in as many words.
    parts = dict(part.split("=", 1) for part in call.headers["X-Smsim-Signature"].split(","))
    signed = f"{parts['t']}.".encode() + call.body
    assert parts["v1"] == hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert began_s <= int(parts["t"]) <= int(time.time())
    assert not bench.dispatcher._held


async def test_messages_without_an_address_and_messages_on_their_way_are_told_nobody(
    bench: Bench, receiver: Receiver
) -> None:
    """However often they are looked at; of those that have ended, each is told to its own address."""
    async with bench.running(), Receiver().listening() as another:
        silent, waiting = await bench.posted(None), await bench.posted(receiver.url)
        one, other = await bench.posted(receiver.url), await bench.posted(another.url)
        for _ in range(3):
            bench.leap(100)
            await bench.sent(silent)
            await bench.sent(one)
            await bench.sent(other)
        await calls(receiver, 1)
        await calls(another, 1)
        assert (receiver.uuids, another.uuids) == ([one[0].uuid], [other[0].uuid])
        await eventually(lambda: not bench.dispatcher._held)
        assert bench.owed == [waiting[0].uuid]


async def test_an_end_that_nobody_told_of_is_found(bench: Bench, receiver: Receiver) -> None:
    """Its step was lost, or the gateway that took it in has died: the time of the end is what nobody knows."""
    kept, lost = (await bench.posted(receiver.url))[0], (await bench.posted(receiver.url))[0]
    await bench.settle([kept, lost])
    bench.tracker.publish([step(kept, Status.SENDING, 2), step(kept, Status.SENT, 2)])
    gateway = bench.another()
    async with bench.running(gateway):
        bench.leap(10)
        await calls(receiver, 2)
    said = {call.said["uuid"]: (call.said["attempts"], call.said["at"]) for call in receiver.calls}
    assert said == {kept.uuid: (2, "2026-11-18T11:06:40.123456Z"), lost.uuid: (1, None)}


async def test_the_ledger_says_how_a_message_ended(bench: Bench, receiver: Receiver) -> None:
    """A second holder's step comes too late and is wrong: it was sent."""
    async with bench.running():
        (record,) = await bench.posted(receiver.url)
        await bench.settle([record])
        bench.tell([record], Status.FAILED, attempt=2)
        (call,) = await calls(receiver, 1)
    assert (call.said["status"], call.said["at"]) == ("sent", None)


async def test_a_step_that_comes_before_the_record_makes_for_another_look(
    bench: Bench, receiver: Receiver
) -> None:
    """Nothing is told of a message that the ledger holds to be on its way; it is told once that has changed."""
    async with bench.running():
        (record,) = await bench.posted(receiver.url)
        bench.tell([record])
        await eventually(lambda: not bench.dispatcher._awaited)
        await bench.settle([record])
        await eventually(lambda: bench.later(10) or receiver.calls)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_answer_of_2xx_is_delivered(bench: Bench, receiver: Receiver, status: int) -> None:
    """Once, however much time passes."""
    receiver.status = status
    async with bench.running():
        await bench.sent(await bench.posted(receiver.url))
        await calls(receiver, 1)
        await eventually(lambda: not bench.owed)
    assert len(receiver.calls) == 1


@pytest.mark.parametrize("status", [302, 307, 400, 404, 429, 500, 503])
async def test_any_other_answer_is_tried_again_later_and_then_given_up(
    bench: Bench, receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Eight times, the same each time but for the signature, after longer and longer; no redirect is followed."""
    pauses: list[float] = []
    async with bench.running(), Receiver().listening() as elsewhere:
        receiver.status, receiver.headers = status, {"Location": elsewhere.url}
        await bench.sent(await bench.posted(receiver.url))
        for tries in range(1, TRIES + 1):
            await calls(receiver, tries)
            await eventually(lambda: not bench.dispatcher._held)
            if tries < TRIES:
                pauses.append(await until_due(bench))
        assert not bench.owed
        assert elsewhere.calls == []
    assert len({(call.body, call.delivery) for call in receiver.calls}) == 1
    assert all(later > 1.5 * earlier for earlier, later in pairwise(pauses))
    assert 3000 < sum(pauses) < 5500
    (given_up,) = [record for record in caplog.records if record.msg == "callback_given_up"]
    about = given_up.__dict__
    assert (about["host"], about["tries"], about["reason"]) == ("127.0.0.1", TRIES, str(status))
    assert "key=k1" not in caplog.text + str(about)


async def until_due(bench: Bench) -> float:
    """Lets the time pass in which nothing is due, in steps of a second; how long that was."""
    callbacks = bench.callbacks
    assert isinstance(callbacks, MemoryCallbacks)
    (kept,) = callbacks._kept.values()
    pause_s = kept.next_look - callbacks._clock()
    bench.leap(pause_s - 0.5)
    assert await callbacks.due(1) == []
    bench.leap(0.6)
    return pause_s


async def test_a_receiver_that_comes_back_is_told(bench: Bench, receiver: Receiver) -> None:
    """It refused, then hung up: each is a failed try, and the next one goes through."""

    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with bench.running():
        receiver.status = 500
        await bench.sent(await bench.posted(receiver.url))
        await eventually(lambda: all_tried(bench, 1))
        receiver.handler = hang_up
        await until_due(bench)
        await eventually(lambda: all_tried(bench, 2))
        receiver.handler, receiver.status = None, 200
        await until_due(bench)
        await eventually(lambda: not bench.owed)
    assert len(receiver.calls) == 3


async def test_410_is_the_end_of_it(
    bench: Bench, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The receiver wants no more: given up at once, and logged."""
    receiver.status = 410
    async with bench.running():
        await bench.sent(await bench.posted(receiver.url))
        await calls(receiver, 1)
        await eventually(lambda: not bench.owed)
    assert len(receiver.calls) == 1
    assert "callback_given_up" in caplog.text


async def test_a_receiver_that_never_answers_is_left_after_a_while(
    bench: Bench, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And tried again later; on a slow machine the time may be over before the request is there."""
    monkeypatch.setattr(posting, "TIME_LIMIT_S", 0.5)

    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    receiver.handler = never
    async with bench.running():
        await bench.sent(await bench.posted(receiver.url))
        await eventually(lambda: receiver.calls or bench.later(400))
        await eventually(lambda: not bench.leased())
        (kept,) = bench.callbacks._kept.values()  # type: ignore[attr-defined]
        assert kept.tries >= 1
        receiver.handler = None
        await eventually(lambda: not bench.owed or bench.later(400))
    assert "callback_given_up" not in caplog.text


async def test_an_answer_without_end_is_an_answer(bench: Bench, receiver: Receiver) -> None:
    """200 and then gigabytes: delivered, with no more read than a bound."""
    written = Counter[str]()

    async def flood(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(bytes(64 * 1024))
            written["bytes"] += 64 * 1024

    receiver.handler = flood
    async with bench.running():
        await bench.sent(await bench.posted(receiver.url))
        await calls(receiver, 1)
        await eventually(lambda: not bench.owed)
        await eventually(lambda: receiver.at_once == 0)  # the connection was closed
    # What kernels and buffers on the way take, and not what could have been had.
    assert written["bytes"] < 64 * 1024 * 1024


async def told_once(bench: Bench, receiver: Receiver) -> None:
    """From now on it is a host that is well."""
    await bench.sent(await bench.posted(receiver.url))
    await calls(receiver, 1)
    await eventually(lambda: not bench.owed and not bench.dispatcher._held)
    receiver.calls.clear()


async def test_a_slow_receiver_holds_up_nobody_else(
    bench: Bench, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has 600 to come and does not answer: 8 are on their way to it, and another host gets all of its 300."""
    monkeypatch.setattr(posting, "TIME_LIMIT_S", 100.0)
    never = asyncio.Event()

    async def hangs(_: web.Request) -> web.StreamResponse:
        await never.wait()
        return web.Response()

    async with bench.running(), Receiver().listening("127.0.0.2") as quick:
        await told_once(bench, receiver)
        receiver.handler = hangs
        await bench.sent(await bench.posted(receiver.url, 600))
        await calls(receiver, IN_FLIGHT_A_HOST)
        records = await bench.posted(quick.url, 300)
        await bench.sent(records)
        await eventually(lambda: bench.later(1, receiver.url) or len(quick.calls) >= 300)
        assert sorted(quick.uuids) == sorted(record.uuid for record in records)
        assert quick.most_at_once <= IN_FLIGHT_A_HOST
        assert len(receiver.calls) == IN_FLIGHT_A_HOST
        never.set()
        receiver.handler = None
        await eventually(lambda: bench.later(1) or len(set(receiver.uuids)) == 600)
    assert receiver.most_at_once <= IN_FLIGHT_A_HOST


async def test_dead_receivers_hold_up_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are more of them than places, nobody has known any of them, and each would take its whole time."""
    monkeypatch.setattr(posting, "TIME_LIMIT_S", 100.0)
    monkeypatch.setattr(turns, "PROMPT_S", 0.05)

    async def hangs(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    dead = 2 * Standing.NEW.places
    async with (
        bench.running(),
        Receiver(handler=hangs).listening("0.0.0.0") as never,
        Receiver().listening() as quick,
    ):
        for n in range(dead):
            await bench.sent(await bench.posted(never.url.replace("0.0.0.0", f"127.0.1.{n + 1}"), 8))
        await eventually(lambda: len(never.calls) >= Standing.NEW.places)
        await bench.sent(await bench.posted(quick.url))
        await calls(quick, 1)
    assert len(never.calls) <= dead


async def test_more_than_is_listened_for_is_found_by_looking(
    bench: Bench, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is listened for is bounded; the rest comes later, and nothing stays undelivered."""
    monkeypatch.setattr(module, "MOST_AWAITED", 10)
    monkeypatch.setattr(module, "CHUNK", 16)
    monkeypatch.setattr(module, "MOST_HELD", 48)
    async with bench.running():
        records = await bench.posted(receiver.url, 200)
        assert len(bench.dispatcher._awaited) == 10
        await bench.sent(records)
        await eventually(lambda: bench.later(1) or len(receiver.calls) >= 200)
        assert sorted(receiver.uuids) == sorted(record.uuid for record in records)


async def test_two_gateways_deliver_each_once(bench: Bench, receiver: Receiver) -> None:
    """Both find the same owed; what one has, the other leaves alone."""
    records = await bench.posted(receiver.url, 300)
    await bench.settle(records)
    async with bench.running(bench.another(), bench.another()):
        bench.leap(10)
        await eventually(lambda: bench.later(1) or len(receiver.calls) >= 300)
        await eventually(lambda: not bench.owed)
    assert sorted(receiver.uuids) == sorted(record.uuid for record in records)


async def test_what_a_dead_gateway_held_another_delivers(bench: Bench, receiver: Receiver) -> None:
    """It had looked and was gone before it delivered: its lease passes."""
    records = await bench.posted(receiver.url, 20)
    await bench.settle(records)
    assert len(await bench.callbacks.take([record.uuid for record in records], LEASE_S)) == 20
    async with bench.running(bench.another()):
        bench.leap(LEASE_S - 1)
        assert await bench.callbacks.due(100) == []
        assert receiver.calls == []
        bench.leap(1)
        await calls(receiver, 20)


async def test_a_gateway_that_is_stopped_gives_back_what_it_has_not_delivered(
    bench: Bench, receiver: Receiver
) -> None:
    """At once, so that the next one need not wait for a lease; what was under way may come twice, with the same id."""

    async def hangs(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    async with bench.running():
        await told_once(bench, receiver)
        receiver.handler = hangs
        records = await bench.posted(receiver.url, 50)
        await bench.sent(records)
        await calls(receiver, IN_FLIGHT_A_HOST)
        await eventually(lambda: len(bench.dispatcher._held) == 50)
    receiver.handler = None
    async with bench.running(bench.another()):
        await eventually(lambda: bench.later(1) or len(receiver.calls) >= 50 + IN_FLIGHT_A_HOST)
    deliveries = Counter(call.delivery for call in receiver.calls)
    assert deliveries.keys() == {f"{record.uuid}.sent" for record in records}
    assert sum(deliveries.values()) == 50 + IN_FLIGHT_A_HOST


async def test_a_lease_that_is_nearly_over_is_not_begun_on(
    bench: Bench, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was waited for too long: given back, and then delivered under a new one."""
    monkeypatch.setattr(module, "SHORTEST_LEASE_S", LEASE_S + 1)
    async with bench.running():
        await bench.sent(await bench.posted(receiver.url))
        await eventually(lambda: not bench.dispatcher._awaited and not bench.dispatcher._held)
        assert receiver.calls == []
        monkeypatch.setattr(module, "SHORTEST_LEASE_S", 0)
        await calls(receiver, 1)


async def test_a_host_that_no_name_is_stops_nobody(bench: Bench, receiver: Receiver) -> None:
    """What looks like an internationalised name and is none is a failed try; the others are told, again and again."""
    async with bench.running():
        await bench.sent(await bench.posted("http://xn--a.com/"))
        for told in range(1, 4):
            await bench.sent(await bench.posted(receiver.url))
            await calls(receiver, told)
    assert len(receiver.calls) == 3


async def test_what_never_ends_is_dropped(
    bench: Bench, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """A message that is on its way for longer than messages are kept, and one of a run that nobody knows."""
    stuck, young = (await bench.posted(receiver.url))[0], (await bench.posted(receiver.url))[0]
    unknown = Record(run="unknown", message=Message(0, "+1", ""), accepted_us=0, callback_url=receiver.url)
    await bench.callbacks.owe([unknown])
    async with bench.running():
        bench.leap(30)
        await eventually(bench.looked_at)
        assert bench.owed == [stuck.uuid, young.uuid, unknown.uuid]
        bench.leap(60)
        await eventually(lambda: bench.owed == [stuck.uuid, young.uuid])
        await bench.sent([young])
        await calls(receiver, 1)
        await eventually(lambda: bench.owed == [stuck.uuid])
        bench.leap(TTL_S - 100)
        await eventually(bench.looked_at)
        assert bench.owed == [stuck.uuid]
        bench.leap(400)
        await eventually(lambda: not bench.owed)
    assert receiver.uuids == [young.uuid]
    assert "callbacks_dropped" in caplog.text


async def test_callbacks_are_off_without_a_secret(bench: Bench, receiver: Receiver) -> None:
    """Said when one is asked for, before anything is accepted; what was owed before stays so."""
    off = Dispatcher(bench.callbacks, bench.tracker, bench.ledger, None, True)
    assert off.url_error(receiver.url) == "callbacks are off: set CALLBACK_SECRET"
    assert bench.dispatcher.url_error(receiver.url) is None
    assert "not public" in str(bench.another(allow_private=False).url_error(receiver.url))
    records = await bench.posted(receiver.url)
    await bench.settle(records)
    async with bench.running(off):
        bench.leap(100)
        assert await bench.callbacks.due(10) == [records[0].uuid]
    assert receiver.calls == []


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
async def test_no_proxy_of_the_environment_is_used(
    bench: Bench, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """A proxy would look up names by itself, and reach what we must not."""
    async with bench.running(), Receiver().listening() as another:
        monkeypatch.setenv(proxy, another.url)
        await bench.sent(await bench.posted(receiver.url))
        await calls(receiver, 1)
        assert another.calls == []


async def test_nothing_is_posted_to_private_addresses(bench: Bench, receiver: Receiver) -> None:
    """Though such a URL was once accepted: literally, in other spellings, and by a name of this machine."""
    port = receiver.url.split(":")[2]
    hosts = [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0",
        "[::ffff:127.0.0.1]",
        "localhost",
        "localhost.",
    ]
    for host in hosts:
        await bench.sent(await bench.posted(f"http://{host}:{port}"))
    async with bench.running(bench.another(allow_private=False)):
        bench.leap(10)
        await eventually(lambda: all_tried(bench, 1))
        assert len(bench.owed) == len(hosts)
    assert receiver.calls == []


async def all_tried(bench: Bench, tries: int) -> bool:
    """So often, and given back."""
    assert isinstance(bench.callbacks, MemoryCallbacks)
    return all((kept.tries, kept.lease) == (tries, "") for kept in bench.callbacks._kept.values())


class FakeNames(AbstractResolver):
    """A name server that gives one answer after the other."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in self.answers.pop(0)
        ]

    async def close(self) -> None:
        return


def an_owed(url: str) -> tuple[Owed, Ending]:
    owed = Owed(run=RUN, seq=1, number="+1", url=url, age_s=0, tries=0, ending=None, lease="")
    return owed, Ending(Status.SENT, 1, None)


async def test_a_name_that_changes_its_address_gains_nothing() -> None:
    """DNS rebinding: one look-up a try, and the connection goes to that very answer, which was judged.

    127.0.0.1 stands for the public address here, 127.0.0.2 for the private one; a receiver listens on both.
    """

    def allows(address: IPv4Address | IPv6Address) -> bool:
        return str(address) == "127.0.0.1"

    async with AsyncExitStack() as stack:
        public = await stack.enter_async_context(Receiver(status=500).listening())
        private = await stack.enter_async_context(Receiver().listening("127.0.0.2"))
        for receiver, answers, expected in (
            (public, [["127.0.0.1"], ["127.0.0.2"]], "500"),
            (private, [["127.0.0.2"], ["127.0.0.1"]], "AddressRefusedError"),
            (public, [["127.0.0.2", "127.0.0.1"]], "500"),  # the allowed one of the two
        ):
            port = receiver.url.split(":")[2]
            names = FakeNames(*answers)
            async with Poster(SECRET, 4, allows, names) as poster:
                answer = await poster.post(*an_owed(f"http://rebinding.example:{port}"))
                assert answer == (Answer.FAILED, expected)
                assert len(names.answers) == len(answers) - 1
        assert private.calls == []
        assert len(public.calls) == 2


async def test_a_name_that_turns_private_is_refused_at_the_next_try() -> None:
    """The first try went out; the second finds another address behind the name."""
    async with Receiver(status=500, headers={"Connection": "close"}).listening() as receiver:
        port = receiver.url.split(":")[2]
        names = FakeNames(["127.0.0.1"], ["127.0.0.2"])
        async with (
            Receiver().listening("127.0.0.2") as private,
            Poster(SECRET, 4, lambda a: str(a) == "127.0.0.1", names) as poster,
        ):
            private_port = private.url.split(":")[2]
            owed, ending = an_owed(f"http://rebinding.example:{port}")
            assert await poster.post(owed, ending) == (Answer.FAILED, "500")
            owed, ending = an_owed(f"http://rebinding.example:{private_port}")
            assert await poster.post(owed, ending) == (Answer.FAILED, "AddressRefusedError")
            assert names.answers == []
            assert private.calls == []


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "no-such-name.invalid", "a..b", "127.1.1.1.1"])
async def test_what_can_t_be_connected_to_is_a_failed_try(host: str) -> None:
    """Whatever the codec for names, the resolver or aiohttp raises; a name server is not needed to show it."""

    class NoNames(FakeNames):
        async def resolve(self, host: str, *_: Any, **__: Any) -> list[ResolveResult]:
            host.encode("idna")
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with Poster(SECRET, 4, lambda _: True, NoNames()) as poster:
        answer, why = await poster.post(*an_owed(f"http://{host}/"))
    assert answer is Answer.FAILED
    assert why.isidentifier()


async def test_who_takes_no_connection_is_left_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Than one who takes it and is slow to answer."""
    monkeypatch.setattr(posting, "TIME_LIMIT_S", 1_000.0)
    monkeypatch.setattr(posting, "CONNECT_LIMIT_S", 0.05)

    class Silent(FakeNames):
        async def resolve(self, *_: Any, **__: Any) -> list[ResolveResult]:
            await asyncio.Event().wait()
            return []

    async with Poster(SECRET, 4, lambda _: True, Silent()) as poster:
        answer, _ = await poster.post(*an_owed("http://silent.example/"))
    assert answer is Answer.FAILED


async def test_a_name_server_that_never_answers_holds_up_no_other_look_up(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its look-ups wait in threads of their own, of which there are some more; once it answers, they are free again."""
    answers, really = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: str, *rest: Any) -> Any:
        if host == "silent.example":
            answers.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return really("127.0.0.1", *rest)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    port = receiver.url.split(":")[2]
    names = Names(4)
    async with Poster(SECRET, 4, lambda _: True, names) as poster:
        silent = [asyncio.create_task(poster.post(*an_owed("http://silent.example/"))) for _ in range(3)]
        await eventually(lambda: names._free._value == 1)
        for waiting in silent:
            waiting.cancel()  # as a time limit does
        await asyncio.gather(*silent, return_exceptions=True)
        prompt = await poster.post(*an_owed(f"http://prompt.example:{port}"))
        assert prompt == (Answer.DELIVERED, "204")
        assert names._free._value == 1
        answers.set()
        await eventually(lambda: names._free._value == 4)


async def test_two_gateways_on_redis_deliver_each_once(redis_server: RedisServer, receiver: Receiver) -> None:
    """With the real store, by what they hear: each the messages that it took in itself."""
    async with Redis(host=redis_server.host, port=redis_server.port) as client:
        redis_server.flush()
        bench = Bench(RedisCallbacks(client, TTL_S), lambda _: None)
        one, other = bench.another(), bench.another()
        async with bench.running(one, other):
            records = await bench.posted(receiver.url, 100, one) + await bench.posted(
                receiver.url, 100, other
            )
            await bench.sent(records)
            await calls(receiver, 200)
            await eventually(lambda: nothing_left(client))
        assert sorted(receiver.uuids) == sorted(record.uuid for record in records)
        redis_server.flush()


async def nothing_left(client: Redis) -> bool:
    return not await client.zcard("sms:callbacks") and not await client.keys("sms:callback:*")


@pytest.fixture(autouse=True)
def _warnings_are_heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
