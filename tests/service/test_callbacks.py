"""The dispatcher of callbacks, with receivers on this machine, on the memory ledger and tracker."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from common.ledger.memory import MemoryLedger
from common.ledger.values import Outcomes
from common.messages import Lane, Message, Outcome
from common.redis import Client
from common.tracking.memory import MemoryTracker
from common.tracking.port import Record, Status, Step
from gateway.acceptance.port import NewRun
from gateway.acceptance.redis import Keeping, RedisAcceptances
from gateway.callbacks.address import AddressRules
from gateway.callbacks.dispatcher import Dispatcher
from gateway.callbacks.limits import CallbackLimits, Retention
from gateway.callbacks.memory import MemoryCallbacks
from gateway.callbacks.port import Callbacks
from gateway.callbacks.redis import RedisCallbacks
from gateway.callbacks.signing import Signer
from tests.kept import keep_records
from tests.receiver import SECRET, Receiver, hang
from tests.servers import RedisServer
from tests.waiting import eventually

RUN, NUMBER = "posted", "+541166587382"
RETENTION = Retention(message_s=3600.0)
LIMITS = CallbackLimits(poll_s=0.02)
PATIENT = replace(LIMITS, attempt_s=1_000.0)
IN_PROGRESS = LIMITS.hosts.in_progress


async def no_owner(_: str) -> str | None:
    return None


SIGNED: dict[str, Any] = {
    "signer": Signer([SECRET]),
    "owner_of": no_owner,
    "rules": AddressRules(allow_private=True),
}


class Bench:
    """Dispatchers on one store, whose clock the test moves. Settles messages as a sender does."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0
        self.callbacks = MemoryCallbacks(RETENTION, lambda: self.now_s)
        self.ledger, self.tracker = MemoryLedger(), MemoryTracker()
        self.seqs = 0

    def dispatcher(self, limits: CallbackLimits = LIMITS, **settings: Any) -> Dispatcher:
        given: dict[str, Any] = {**SIGNED, **settings}
        return Dispatcher(self.callbacks, self.tracker, self.ledger, limits=limits, **given)

    @asynccontextmanager
    async def running(self, dispatcher: Dispatcher | None = None) -> AsyncIterator[Dispatcher]:
        """Runs a dispatcher that listens to events."""
        dispatcher = dispatcher or self.dispatcher()
        listeners = len(self.tracker._listeners._buffers)
        task = asyncio.create_task(dispatcher.run())
        await eventually(lambda: len(self.tracker._listeners._buffers) > listeners)
        try:
            yield dispatcher
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def accept(self, url: str | None, count: int = 1, by: Dispatcher | None = None) -> list[Record]:
        """Messages whose callbacks are registered, and whose ends a dispatcher expects."""
        records = [
            Record(run=RUN, message=Message(self.seqs + k, NUMBER, "text"), accepted_us=1, callback_url=url)
            for k in range(count)
        ]
        await self.ledger.announce(RUN, self.seqs, count)
        self.seqs += count
        await keep_records(self.tracker, records)
        self.callbacks.register(records)
        if by is not None and url is not None:
            by.expect([record.uuid for record in records])
        return records

    async def settle(self, records: list[Record], outcome: Outcome = Outcome.SENT) -> None:
        """Settles messages in the ledger."""
        seqs = np.array([record.seq for record in records], np.int64)
        await self.ledger.claim(RUN, seqs, False)
        outcomes = np.full(seqs.size, outcome, np.uint8)
        await self.ledger.settle(RUN, Outcomes(seqs, outcomes, np.full(seqs.size, 1000, np.int64)))

    def publish(self, records: list[Record], status: Status = Status.SENT, attempt: int = 1) -> None:
        """Sends the events of messages."""
        self.tracker.publish([step(record, status, attempt) for record in records])

    async def send(self, records: list[Record]) -> None:
        await self.settle(records)
        self.publish(records)

    async def sent(self, url: str, count: int = 1, by: Dispatcher | None = None) -> list[Record]:
        """Messages that are accepted and sent."""
        records = await self.accept(url, count, by)
        await self.send(records)
        return records

    @property
    def registered(self) -> list[str]:
        """The callbacks in the store."""
        return list(self.callbacks._entries)

    def is_leased(self, but: str = "") -> bool:
        """Whether a callback is leased, apart from those to one URL."""
        return any(it.callback.lease and it.callback.url != but for it in self.callbacks._entries.values())

    async def is_checked(self) -> bool:
        """Whether everything that is due was checked."""
        return not self.is_leased() and not await self.callbacks.due(1)

    async def until(self, condition: Callable[[], Any], step_s: float = 1.0, hanging: str = "") -> None:
        """Waits for a condition. Time passes while nothing is leased, apart from callbacks to a URL that hangs."""

        def check() -> Any:
            if found := condition():
                return found
            if not self.is_leased(but=hanging):
                self.now_s += step_s
            return None

        await eventually(check)

    async def until_due(self) -> float:
        """Lets time pass until the only callback is due. Returns how long it was not due."""
        (entry,) = self.callbacks._entries.values()
        pause_s = entry.due_s - self.now_s
        self.now_s += pause_s - 0.5
        assert await self.callbacks.due(1) == []
        self.now_s += 0.6
        return pause_s

    def all_failed(self, failures: int) -> bool:
        """Whether every callback has this many failures, and is not leased."""
        callbacks = [entry.callback for entry in self.callbacks._entries.values()]
        return all((callback.failures, callback.lease) == (failures, "") for callback in callbacks)

    async def make_healthy(self, receiver: Receiver) -> None:
        """Delivers one callback, so that the host is known to respond."""
        await self.sent(receiver.url)
        await self.until(lambda: not self.registered)
        receiver.requests.clear()


def step(record: Record, status: Status, attempt: int = 1) -> Step:
    at_us = 1_795_000_000_123_456
    return Step(run=record.run, message=record.message, status=status, attempt=attempt, at_us=at_us)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().listening() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def _warnings_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


async def count_of(receiver: Receiver, requests: int) -> None:
    await eventually(lambda: len(receiver.requests) >= requests, describe=f"{requests} requests")
    assert len(receiver.requests) == requests


@pytest.mark.parametrize(
    ("outcome", "status"), [(Outcome.SENT, Status.SENT), (Outcome.FAILED, Status.FAILED)]
)
async def test_a_callback_is_posted_when_its_message_ends(
    bench: Bench, receiver: Receiver, outcome: Outcome, status: Status
) -> None:
    """At once, by the event. It has everything but the text, and a fresh signature. Then it is removed."""
    async with bench.running() as dispatcher:
        began_s = int(time.time())
        (record,) = await bench.accept(receiver.url, by=dispatcher)
        bench.publish([record], Status.SENDING)
        await bench.settle([record], outcome)
        bench.publish([record], status, attempt=3)
        await count_of(receiver, 1)
        await eventually(lambda: not bench.registered)
    (request,) = receiver.requests
    assert request.path == "/hook?key=k1"
    assert request.headers["Content-Type"] == "application/json"
    assert request.delivery == f"{record.uuid}.{status}"
    assert began_s <= request.signed_s <= int(time.time())
    assert request.body == {
        "uuid": record.uuid,
        "run": RUN,
        "status": status,
        "number": NUMBER,
        "attempts": 3,
        "at": "2026-11-18T11:06:40.123456Z",
    }


async def test_other_messages_get_no_callback(bench: Bench, receiver: Receiver) -> None:
    """Neither messages without a URL, nor messages that have not ended. Each callback goes to its own URL."""
    async with bench.running(), Receiver().listening() as another:
        silent, waiting = await bench.accept(None), await bench.accept(receiver.url)
        one, other = await bench.sent(receiver.url), await bench.sent(another.url)
        await bench.send(silent)
        await bench.until(lambda: bench.registered == [waiting[0].uuid], step_s=100)
    assert (receiver.uuids, another.uuids) == ([one[0].uuid], [other[0].uuid])


async def test_missed_events_are_made_up_for(bench: Bench, receiver: Receiver) -> None:
    """A gateway died or an event was lost: the schedule finds the callback. Only the time may be unknown."""
    kept, lost = await bench.accept(receiver.url, 2)
    await bench.settle([kept, lost])
    bench.tracker.publish([step(kept, Status.SENDING, 2), step(kept, Status.SENT, 2)])
    async with bench.running():
        bench.now_s += 10
        await count_of(receiver, 2)
    found = {request.body["uuid"]: request.body for request in receiver.requests}
    assert (found[kept.uuid]["attempts"], found[kept.uuid]["at"]) == (2, "2026-11-18T11:06:40.123456Z")
    assert (found[lost.uuid]["attempts"], found[lost.uuid]["at"]) == (1, None)


async def test_the_ledger_decides_the_status(bench: Bench, receiver: Receiver) -> None:
    """An event of a second holder is late and wrong."""
    async with bench.running() as dispatcher:
        (record,) = await bench.accept(receiver.url, by=dispatcher)
        await bench.settle([record])
        bench.publish([record], Status.FAILED, attempt=2)
        await count_of(receiver, 1)
    (request,) = receiver.requests
    assert (request.body["status"], request.body["at"]) == ("sent", None)


async def test_an_event_before_the_settlement_posts_nothing(bench: Bench, receiver: Receiver) -> None:
    """The callback is checked again later."""
    async with bench.running() as dispatcher:
        (record,) = await bench.accept(receiver.url, by=dispatcher)
        bench.publish([record])
        entry = bench.callbacks._entries[record.uuid]
        first_due_s = entry.due_s
        await eventually(lambda: entry.due_s != first_due_s and not bench.is_leased())
        assert receiver.requests == []
        await bench.settle([record])
        await bench.until(lambda: receiver.requests, step_s=10)


@pytest.mark.parametrize("status", [200, 204, 299, 410])
async def test_2xx_and_410_end_the_attempts(
    bench: Bench, receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The callback is removed after one request. 410 is logged."""
    receiver.status = status
    async with bench.running():
        await bench.sent(receiver.url)
        await bench.until(lambda: not bench.registered)
    assert len(receiver.requests) == 1
    assert ("callback_given_up" in caplog.text) == (status == 410)


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_other_responses_are_retried_8_times(
    bench: Bench, receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With the same body and delivery id, after growing pauses, about 68 minutes in all. Redirects are not followed."""
    pauses_s: list[float] = []
    async with bench.running(), Receiver().listening() as elsewhere:
        receiver.status, receiver.headers = status, {"Location": elsewhere.url}
        await bench.sent(receiver.url)
        await bench.until_due()
        for failures in range(1, LIMITS.attempts):
            await eventually(partial(bench.all_failed, failures))
            pauses_s.append(await bench.until_due())
        await eventually(lambda: not bench.registered)
        assert elsewhere.requests == []
    assert len(receiver.requests) == 8
    assert len({(request.raw, request.delivery) for request in receiver.requests}) == 1
    assert all(later > 1.5 * earlier for earlier, later in pairwise(pauses_s))
    assert 3000 < sum(pauses_s) < 5500
    (given_up,) = [vars(record) for record in caplog.records if record.msg == "callback_given_up"]
    assert (given_up["host"], given_up["tries"], given_up["reason"]) == ("127.0.0.1", 8, str(status))
    assert "key=k1" not in caplog.text + str(given_up)


async def test_a_receiver_that_recovers_gets_the_callback(bench: Bench, receiver: Receiver) -> None:
    """After a 500 and a closed connection."""

    async def close(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with bench.running():
        receiver.status = 500
        await bench.sent(receiver.url)
        for failures, handler in ((0, None), (1, close), (2, None)):
            await eventually(partial(bench.all_failed, failures))
            receiver.handler = handler
            await bench.until_due()
            receiver.status = 200 if failures else 500
        await eventually(lambda: not bench.registered)
    assert len(receiver.requests) == 3


async def test_a_receiver_that_never_responds_is_tried_again(
    bench: Bench, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The attempt ends after a while and counts as failed."""
    receiver.handler = hang
    async with bench.running(bench.dispatcher(replace(LIMITS, attempt_s=0.5))):
        (record,) = await bench.sent(receiver.url)
        entry = bench.callbacks._entries[record.uuid]
        await bench.until(lambda: entry.callback.failures and not bench.is_leased(), step_s=400)
        receiver.handler = None
        await bench.until(lambda: not bench.registered, step_s=400)
    assert "callback_given_up" not in caplog.text


async def test_an_endless_response_is_not_read(bench: Bench, receiver: Receiver) -> None:
    """The status counts, and the connection is closed."""
    written = Counter[str]()

    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(64 * 1024))
            written["bytes"] += 64 * 1024

    receiver.handler = flood
    async with bench.running():
        await bench.sent(receiver.url)
        await bench.until(lambda: not bench.registered)
        await eventually(lambda: receiver.in_progress == 0)
    assert written["bytes"] < 64 * 1024 * 1024  # buffers of the system took some


async def test_a_slow_host_does_not_delay_another(bench: Bench, receiver: Receiver) -> None:
    """It has 600 callbacks, of which 8 are in progress. The other host gets all of its 300."""
    async with bench.running(bench.dispatcher(PATIENT)), Receiver().listening("127.0.0.2") as quick:
        await bench.make_healthy(receiver)
        receiver.handler = hang
        await bench.sent(receiver.url, 600)
        await bench.until(lambda: len(receiver.requests) == IN_PROGRESS, hanging=receiver.url)
        records = await bench.sent(quick.url, 300)
        await bench.until(lambda: len(quick.requests) >= 300, hanging=receiver.url)
    assert quick.uuids == sorted(record.uuid for record in records)
    assert quick.max_in_progress <= IN_PROGRESS
    assert len(receiver.requests) == IN_PROGRESS


async def test_200_dead_hosts_do_not_delay_others(bench: Bench) -> None:
    """They never respond and none was known before. A good host, also not known, gets its callback meanwhile."""
    async with (
        bench.running(bench.dispatcher(PATIENT)) as dispatcher,
        Receiver(handler=hang).listening("0.0.0.0") as dead,
        Receiver().listening() as good,
    ):
        for n in range(200):
            await bench.sent(dead.url.replace("0.0.0.0", f"127.0.1.{n + 1}"), 4, by=dispatcher)
        await eventually(lambda: len(dead.requests) == 200)
        await bench.sent(good.url, by=dispatcher)
        await count_of(good, 1)
    assert len(dead.requests) == 200


async def test_the_number_of_expected_and_held_callbacks_is_bounded(bench: Bench, receiver: Receiver) -> None:
    """The others are delivered later, by the schedule."""
    limits = replace(LIMITS, expected=10, page=16, held=48)
    async with bench.running(bench.dispatcher(limits)) as dispatcher:
        records = await bench.accept(receiver.url, 200, by=dispatcher)
        assert len(dispatcher._events._expected) == 10
        await bench.send(records)
        await bench.until(lambda: len(receiver.requests) >= 200)
    assert receiver.uuids == sorted(record.uuid for record in records)


async def test_two_gateways_post_each_callback_once(bench: Bench, receiver: Receiver) -> None:
    """Both find the same callbacks; each is leased to one of them."""
    records = await bench.accept(receiver.url, 300)
    await bench.settle(records)
    async with bench.running(), bench.running():
        await bench.until(lambda: not bench.registered)
    assert receiver.uuids == sorted(record.uuid for record in records)


async def test_a_gateway_that_stops_gives_its_callbacks_back(bench: Bench, receiver: Receiver) -> None:
    """Another one delivers them at once. Those in progress are posted twice, with the same id."""
    async with bench.running():
        await bench.make_healthy(receiver)
        receiver.handler = hang
        records = await bench.sent(receiver.url, 50)
        await bench.until(lambda: len(receiver.requests) == IN_PROGRESS, hanging=receiver.url)
    assert not bench.is_leased()
    receiver.handler = None
    async with bench.running():
        await bench.until(lambda: not bench.registered)
    deliveries = Counter(request.delivery for request in receiver.requests)
    assert deliveries.keys() == {f"{record.uuid}.sent" for record in records}
    assert sum(deliveries.values()) == 50 + IN_PROGRESS


async def test_no_attempt_starts_at_the_end_of_a_lease(bench: Bench, receiver: Receiver) -> None:
    """The callback is given back, and delivered under another lease."""
    (record,) = await bench.sent(receiver.url)
    due_s = bench.callbacks._entries[record.uuid].due_s
    async with bench.running(bench.dispatcher(replace(LIMITS, min_lease_s=LIMITS.lease_s + 1))):
        bench.now_s += 10
        await eventually(lambda: bench.callbacks._entries[record.uuid].due_s != due_s)
    assert receiver.requests == []
    async with bench.running():
        await count_of(receiver, 1)


async def test_an_invalid_host_name_does_not_stop_the_others(bench: Bench, receiver: Receiver) -> None:
    """It looks like an internationalised name and is not one: a failed attempt."""
    async with bench.running() as dispatcher:
        await bench.sent("http://xn--a.com/", by=dispatcher)
        for requests in range(1, 4):
            await bench.sent(receiver.url, by=dispatcher)
            await count_of(receiver, requests)


async def test_an_error_of_one_callback_does_not_stop_the_others(
    bench: Bench, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The tracker has an entry that cannot be read: logged, and tried again later."""
    track = bench.tracker.track

    async def broken(run: str, seq: int) -> Any:
        if seq == 0:
            raise ValueError("not JSON")
        return await track(run, seq)

    monkeypatch.setattr(bench.tracker, "track", broken)
    async with bench.running():
        bad, good = await bench.sent(receiver.url, 2)
        await bench.until(lambda: bench.registered == [bad.uuid] and not bench.is_leased())
    assert receiver.uuids == [good.uuid]
    assert "callback_failed" in caplog.text


async def test_callbacks_of_messages_that_do_not_end_are_dropped(
    bench: Bench, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """After MESSAGE_TTL; and at once if the ledger has forgotten the run."""
    stuck, young = await bench.accept(receiver.url, 2)
    forgotten = Record(
        run="forgotten", message=Message(0, "+1", ""), accepted_us=0, callback_url=receiver.url
    )
    bench.callbacks.register([forgotten])
    async with bench.running():
        bench.now_s += 30
        await eventually(lambda: bench.registered == [stuck.uuid, young.uuid])
        await bench.send([young])
        await bench.until(lambda: bench.registered == [stuck.uuid])
        bench.now_s = 1_000_000.0 + RETENTION.message_s - 100
        await eventually(bench.is_checked)
        assert bench.registered == [stuck.uuid]
        bench.now_s += 500
        await eventually(lambda: not bench.registered)
    assert receiver.uuids == [young.uuid]
    assert "callbacks_dropped" in caplog.text


async def test_callbacks_are_off_without_a_secret(bench: Bench, receiver: Receiver) -> None:
    """A URL is refused. Callbacks that were registered earlier are not posted."""
    off = bench.dispatcher(signer=None)
    assert off.url_error(receiver.url) == "callbacks are off: set CALLBACK_SECRET"
    assert bench.dispatcher().url_error(receiver.url) is None
    assert "not public" in str(bench.dispatcher(rules=AddressRules()).url_error(receiver.url))
    (record,) = await bench.sent(receiver.url)
    bench.now_s += 100
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(off.run(), 0.1)
    assert await bench.callbacks.due(10) == [record.uuid]
    assert receiver.requests == []


@pytest.mark.parametrize("proxy", ["http_proxy", "ALL_PROXY"])
async def test_proxies_of_the_environment_are_not_used(
    bench: Bench, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """A proxy resolves names by itself, and could reach private addresses."""
    async with Receiver().listening() as another:
        monkeypatch.setenv(proxy, another.url)
        async with bench.running():
            await bench.sent(receiver.url)
            await bench.until(lambda: not bench.registered)
        assert another.requests == []


async def test_nothing_is_posted_to_private_addresses(bench: Bench, receiver: Receiver) -> None:
    """Though such a URL was accepted: the address itself, other spellings, and names of this machine."""
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
        await bench.sent(f"http://{host}:{receiver.port}")
    async with bench.running(bench.dispatcher(rules=AddressRules())):
        bench.now_s += 10
        await eventually(lambda: bench.all_failed(1))
    assert len(bench.registered) == len(hosts)
    assert receiver.requests == []


async def test_two_gateways_on_redis(redis_server: RedisServer, receiver: Receiver) -> None:
    """With the real store, each gateway posts the callbacks of the messages that it accepted."""
    bench = Bench()
    async with Client(redis_server.settings) as client:
        redis_server.flush()
        acceptances = RedisAcceptances(client, bench.tracker, "sms_queue", "gateway", Keeping())
        callbacks: Callbacks = RedisCallbacks(client)
        one, other = (Dispatcher(callbacks, bench.tracker, bench.ledger, **SIGNED) for _ in range(2))
        async with bench.running(one), bench.running(other):
            records = await bench.accept(receiver.url, 100, one) + await bench.accept(
                receiver.url, 100, other
            )
            await acceptances.accept_run(a_run(records))
            await bench.send(records)
            await count_of(receiver, 200)
            await eventually(lambda: nothing_left(client))
        assert receiver.uuids == sorted(record.uuid for record in records)
        redis_server.flush()


def a_run(records: list[Record]) -> NewRun:
    return NewRun(
        run=RUN,
        messages=[record.message for record in records],
        lane=Lane.BULK,
        track=True,
        accepted_us=1,
        callback_urls={record.seq: record.callback_url or "" for record in records},
    )


async def nothing_left(client: Client) -> bool:
    return not await client.zcard("sms:callbacks") and not await client.keys("sms:callback:*")
