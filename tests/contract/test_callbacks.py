"""A store of callbacks: both implementations keep the promises of gateway/callbacks/port.py.

The acceptance registers the callbacks, as it does in the gateway. The clock is the test's.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
from msgspec.structs import replace
from redis.exceptions import ConnectionError

from common.keys import Keys
from common.messages import Lane, Message
from common.redis import Client
from common.tracking.memory import MemoryTracker
from common.tracking.port import Status
from gateway.acceptance.port import Bounds, NewRun
from gateway.acceptance.redis import Keeping, RedisAcceptances
from gateway.callbacks.limits import Retention
from gateway.callbacks.port import Callback, FinalStatus, Reschedule
from gateway.callbacks.redis import PIECE, RedisCallbacks
from tests.contract.acceptance_benches import (
    MESSAGE_TTL_S,
    AcceptanceBench,
    memory_acceptances,
    redis_acceptances,
)
from tests.servers import RedisServer

KEYS = Keys()

LEASE_S = 60.0
FIRST_CHECK_S = Retention().first_check_s
NUMBER, URL = "+541166587382", "https://example.com/hook?a=b"


class Bench:
    """A store under test, with callbacks that were registered by the acceptance."""

    def __init__(self, bench: AcceptanceBench) -> None:
        self._acceptances = bench.acceptances
        self.callbacks = bench.callbacks
        self.leap = bench.leap
        self.runs = count(1)

    async def register(self, messages: int = 1) -> list[str]:
        """Accepts messages with callbacks as a run."""
        run = a_run(f"run-{next(self.runs)}", messages)
        await self._acceptances.accept_run(run)
        return [f"{run.run}.{seq}" for seq in range(messages)]

    async def lease(self, *uuids: str) -> list[Callback]:
        return await self.callbacks.lease(uuids, LEASE_S)

    async def due(self, limit: int = 10_000) -> list[str]:
        return await self.callbacks.due(limit)

    async def reschedule(self, callback: Callback, delay_s: float, **changes: Any) -> None:
        await self.callbacks.reschedule([Reschedule(replace(callback, **changes), delay_s)])


def a_run(name: str, messages: int) -> NewRun:
    return NewRun(
        run=name,
        messages=[Message(seq, NUMBER, "secret") for seq in range(messages)],
        lane=Lane.BULK,
        track=True,
        accepted_us=1,
        callback_urls=dict.fromkeys(range(messages), URL),
    )


@asynccontextmanager
async def client_of(server: RedisServer) -> AsyncIterator[Client]:
    async with Client(server.settings) as client:
        server.flush()
        yield client
        server.flush()


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Client]:
    async with client_of(redis_server) as client:
        yield client


@pytest.fixture(params=["memory", "redis"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "memory":
        yield Bench(memory_acceptances(Bounds()))
        return
    async with client_of(request.getfixturevalue("redis_server")) as client:
        yield Bench(await redis_acceptances(client, Bounds()))


async def test_a_registered_callback_is_due_after_a_while(bench: Bench) -> None:
    """It has the message's number and URL, and its age. Unknown callbacks are not leased."""
    (uuid,) = await bench.register()
    assert await bench.due() == []
    await bench.leap(FIRST_CHECK_S)
    assert await bench.due() == [uuid] == ["run-1.0"]
    (callback,) = await bench.lease("run-1.6", uuid, "nosuch.0")
    assert callback == Callback(
        run="run-1", seq=0, number=NUMBER, url=URL, age_s=callback.age_s, lease=callback.lease
    )
    assert callback.age_s == pytest.approx(FIRST_CHECK_S)
    assert bench.callbacks.retention == Retention(message_s=MESSAGE_TTL_S)


async def test_a_callback_can_be_leased_before_it_is_due(bench: Bench) -> None:
    """An event may say that its message has ended."""
    (uuid,) = await bench.register()
    assert len(await bench.lease(uuid)) == 1
    await bench.leap(FIRST_CHECK_S)
    assert await bench.due() == []


async def test_a_lease_excludes_others_until_it_expires(bench: Bench) -> None:
    """Then the callback is due, and can be leased again. The former holder can change nothing any more."""
    (uuid,) = await bench.register()
    (first,) = await bench.lease(uuid)
    await bench.leap(LEASE_S - 0.1)
    assert await bench.lease(uuid) == []
    assert await bench.due() == []
    await bench.leap(0.1)
    assert await bench.due() == [uuid]
    (second,) = await bench.lease(uuid)
    assert second.lease != first.lease
    await bench.reschedule(first, 0, failures=5)
    assert await bench.lease(uuid) == []
    await bench.leap(LEASE_S)
    assert (await bench.lease(uuid))[0].failures == 0


async def test_concurrent_leases_share_the_callbacks(bench: Bench) -> None:
    """Ten calls for the same 300 callbacks: each callback is leased once."""
    uuids = await bench.register(300)
    leased = await asyncio.gather(*(bench.lease(*uuids) for _ in range(10)))
    assert sorted(callback.uuid for part in leased for callback in part) == sorted(uuids)


@pytest.mark.parametrize(
    "final", [FinalStatus(Status.SENT, 2, 1_795_000_000_123_456), FinalStatus(Status.FAILED, 1, None)]
)
async def test_a_rescheduled_callback_keeps_its_changes(bench: Bench, final: FinalStatus) -> None:
    """The lease ends, the callback is due after the delay, and has the failures and the final status."""
    (uuid,) = await bench.register()
    (callback,) = await bench.lease(uuid)
    await bench.reschedule(callback, 90.5, failures=3, final=final)
    await bench.leap(90.4)
    assert await bench.due() == []
    await bench.leap(0.1)
    assert await bench.due() == [uuid]
    (callback,) = await bench.lease(uuid)
    assert (callback.failures, callback.final) == (3, final)


async def test_a_removed_callback_does_not_come_back(bench: Bench) -> None:
    """Whether it is leased or not, and though its holder reschedules it later; the others stay."""
    one, two, three = await bench.register(3)
    (leased,) = await bench.lease(one)
    await bench.callbacks.remove([one, two, "nosuch.0"])
    await bench.reschedule(leased, 0)
    await bench.leap(LEASE_S)
    assert await bench.due() == [three]
    assert [callback.uuid for callback in await bench.lease(one, two, three)] == [three]


async def test_every_call_can_be_repeated(bench: Bench) -> None:
    """A second reschedule or removal changes nothing."""
    (uuid,) = await bench.register()
    (callback,) = await bench.lease(uuid)
    for _ in range(2):
        await bench.reschedule(callback, 30, failures=1)
        await bench.leap(15)
    assert await bench.due() == [uuid]
    assert (await bench.lease(uuid))[0].failures == 1
    for _ in range(2):
        await bench.callbacks.remove([uuid])
        assert await bench.lease(uuid) == []


async def test_the_longest_overdue_come_first(bench: Bench) -> None:
    """And no more than the limit."""
    uuids = []
    for _ in range(3):
        uuids += await bench.register()
        await bench.leap(0.5)
    await bench.leap(FIRST_CHECK_S)
    assert await bench.due() == uuids
    assert await bench.due(2) == uuids[:2]
    await bench.lease(uuids[0])
    assert await bench.due(2) == uuids[1:]


async def test_calls_with_many_callbacks(bench: Bench) -> None:
    """More than one Lua call takes; and none at all."""
    uuids = await bench.register(2 * PIECE + 3)
    leased = await bench.lease(*uuids)
    assert [callback.uuid for callback in leased] == uuids
    await bench.callbacks.reschedule([Reschedule(callback, 0) for callback in leased])
    assert sorted(await bench.due()) == sorted(uuids)
    await bench.callbacks.remove(uuids)
    assert await bench.due() == []
    await bench.callbacks.reschedule([])
    await bench.callbacks.remove([])
    assert await bench.lease() == []


async def test_memory_forgets_after_the_retention() -> None:
    """As the expiry in Redis does."""
    bench = Bench(memory_acceptances(Bounds()))
    (uuid,) = await bench.register()
    await bench.leap(bench.callbacks.retention.total_s + 1)
    assert await bench.lease(uuid) == []
    assert await bench.due() == []


async def test_redis_keeps_no_text_and_forgets_after_the_retention(client: Client) -> None:
    """The hash expires, and the next lease removes its id from the schedule."""
    bench = Bench(await redis_acceptances(client, Bounds()))
    (uuid,) = await bench.register()
    stored = repr(await client.hgetall(KEYS.callback(uuid)))
    assert URL in stored
    assert "secret" not in stored
    left_s = await client.pttl(KEYS.callback(uuid)) / 1000
    total_s = bench.callbacks.retention.total_s
    assert total_s - 60 < left_s <= total_s
    await client.delete(KEYS.callback(uuid))
    await bench.leap(FIRST_CHECK_S)
    assert await bench.due() == [uuid]
    assert await bench.lease(uuid) == []
    assert await client.zcard(KEYS.callbacks) == 0


async def test_lost_answers_lose_and_repeat_nothing(client: Client) -> None:
    """Every second answer is lost after its script ran."""
    bench = Bench(await redis_acceptances(client, Bounds()))
    one, two = await bench.register(2)
    callbacks = bench.callbacks
    assert isinstance(callbacks, RedisCallbacks)
    calls = count()

    def losing(script: Any) -> Any:
        async def call(**arguments: Any) -> Any:
            answer = await script(**arguments)
            if next(calls) % 2 == 0:
                raise ConnectionError("the connection broke")
            return answer

        return call

    callbacks._scripts = {name: losing(script) for name, script in callbacks._scripts.items()}
    callback, other = await bench.lease(one, two)
    await bench.reschedule(callback, 10, failures=1)
    await bench.leap(10)
    assert await bench.due() == [one]
    assert (await bench.lease(one))[0].failures == 1
    await callbacks.remove([other.uuid])
    assert await client.zcard(KEYS.callbacks) == 1


async def test_redis_uses_its_own_clock(client: Client) -> None:
    """With the unchanged scripts, a callback that is rescheduled without delay is due, and a leased one is not."""
    acceptances = RedisAcceptances(client, MemoryTracker(), "sms_queue", "gateway", Keeping())
    await acceptances.accept_run(a_run("run-1", 2))
    callbacks = RedisCallbacks(client)
    assert await callbacks.due(10) == []
    first, second = await callbacks.lease(["run-1.0", "run-1.1"], LEASE_S)
    assert all(0 <= callback.age_s < 60 for callback in (first, second))
    await callbacks.reschedule([Reschedule(first, 0)])
    assert await callbacks.due(10) == ["run-1.0"]
