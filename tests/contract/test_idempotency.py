"""The record of Idempotency-Keys, in memory and in Redis: one holder at a time, one answer for good."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from common.redis import connect_redis
from common.settings import load_settings
from gateway.idempotency.memory import MemoryIdempotency
from gateway.idempotency.port import Found, Idempotency, Reservation
from gateway.idempotency.redis import RedisIdempotency
from tests.servers import RedisServer
from tests.waiting import eventually

LEASE_S = 30.0
PASSED_S = 0.001


@pytest_asyncio.fixture(params=["memory", "redis"])
async def record(request: pytest.FixtureRequest) -> AsyncIterator[Idempotency]:
    if request.param == "memory":
        yield MemoryIdempotency()
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    client = await connect_redis(load_settings(redis_host=server.host, redis_port=server.port), 10)
    yield RedisIdempotency(client)
    await client.aclose()


async def found(record: Idempotency, token: str, fingerprint: str = "f", caller: str = "me") -> Reservation:
    return await record.reserve(caller, "key", fingerprint, token, LEASE_S)


async def test_one_holder_and_others_are_told_to_wait(record: Idempotency) -> None:
    """The first takes the key; a second one finds it busy; a repeat of the first, whose answer was lost, has it."""
    assert (await found(record, "a")).found is Found.NEW
    assert (await found(record, "b")).found is Found.BUSY
    assert (await found(record, "a")).found is Found.NEW


async def test_of_many_at_once_one_takes_it(record: Idempotency) -> None:
    """Twenty at the same moment: one holder."""
    all_found = await asyncio.gather(*(found(record, str(k)) for k in range(20)))
    assert sorted(one.found for one in all_found) == [Found.BUSY] * 19 + [Found.NEW]


async def test_what_was_answered_stands(record: Idempotency) -> None:
    """Once done, everybody gets that answer, and nothing changes it: no plan, no release, nobody else."""
    await found(record, "a")
    await record.plan("me", "key", "a", b"planned")
    await record.done("me", "key", "a", b"answer")
    await record.done("me", "key", "a", b"another")
    await record.plan("me", "key", "a", b"another")
    await record.release("me", "key", "a")
    assert await found(record, "b") == Reservation(Found.DONE, b"answer")


async def test_callers_and_requests_are_told_apart(record: Idempotency) -> None:
    """The key of another caller is another key; the same key with another request is refused, done or not."""
    await found(record, "a")
    assert (await found(record, "b", caller="you")).found is Found.NEW
    assert (await found(record, "c", fingerprint="g")).found is Found.OTHER
    await record.done("me", "key", "a", b"answer")
    assert (await found(record, "d", fingerprint="g")).found is Found.OTHER


async def test_a_plan_is_handed_over_when_its_holder_is_gone(record: Idempotency) -> None:
    """After the lease the next one gets the plan; the former holder then changes nothing any more."""
    await record.reserve("me", "key", "f", "a", PASSED_S)
    await record.plan("me", "key", "a", b"planned")

    async def taken_over() -> bool:
        return await found(record, "b") == Reservation(Found.PLANNED, b"planned")

    await eventually(taken_over)
    await record.done("me", "key", "a", b"too late")
    await record.release("me", "key", "a")
    assert (await found(record, "c")).found is Found.BUSY
    await record.done("me", "key", "b", b"answer")
    assert await found(record, "d") == Reservation(Found.DONE, b"answer")


async def test_without_a_plan_the_next_one_begins_anew(record: Idempotency) -> None:
    """A holder that died before it planned anything leaves no answer."""
    await record.reserve("me", "key", "f", "a", PASSED_S)

    async def taken_over() -> bool:
        return await found(record, "b") == Reservation(Found.PLANNED, None)

    await eventually(taken_over)


async def test_a_released_key_is_free(record: Idempotency) -> None:
    """A request that came to nothing leaves nothing, whatever was planned; even another request may have the key."""
    await found(record, "a")
    await record.plan("me", "key", "a", b"planned")
    await record.release("me", "key", "a")
    assert await found(record, "b", fingerprint="g") == Reservation(Found.NEW)


async def test_memory_is_bounded() -> None:
    """The oldest key is forgotten first."""
    record = MemoryIdempotency(most=2)
    for k in range(3):
        await record.reserve("me", str(k), "f", "a", LEASE_S)
    assert (await record.reserve("me", "2", "f", "b", LEASE_S)).found is Found.BUSY
    assert (await record.reserve("me", "0", "f", "b", LEASE_S)).found is Found.NEW


async def test_a_plan_that_is_passed_on_is_there_at_once(record: Idempotency) -> None:
    """Whoever could not carry it out leaves it to the next request, which need not wait for the lease."""
    await found(record, "a")
    await record.plan("me", "key", "a", b"planned")
    await record.pass_on("me", "key", "a")
    assert await found(record, "b") == Reservation(Found.PLANNED, b"planned")
    await record.pass_on("me", "key", "a")
    assert (await found(record, "c")).found is Found.BUSY


async def test_a_plan_that_is_taken_back_is_void(record: Idempotency) -> None:
    """Its holder says so before it takes anything back; if it dies then, the next one finds it void, until it plans
    anew.
    """
    await found(record, "a")
    await record.plan("me", "key", "a", b"planned")
    assert await record.void("me", "key", "a", LEASE_S)
    assert await record.void("me", "key", "a", LEASE_S)
    assert (await found(record, "b")).found is Found.BUSY
    await record.pass_on("me", "key", "a")
    assert await found(record, "b") == Reservation(Found.VOID, b"planned")
    await record.pass_on("me", "key", "b")
    assert await found(record, "c") == Reservation(Found.VOID, b"planned")
    await record.plan("me", "key", "c", b"another")
    await record.pass_on("me", "key", "c")
    assert await found(record, "d") == Reservation(Found.PLANNED, b"another")


async def test_a_plan_that_another_holds_or_that_is_done_is_not_taken_back(record: Idempotency) -> None:
    """A holder that slept past its lease changes nothing: the next one may have carried the plan out."""
    await found(record, "a")
    await record.plan("me", "key", "a", b"planned")
    await record.pass_on("me", "key", "a")
    await found(record, "b")
    assert not await record.void("me", "key", "a", LEASE_S)
    await record.pass_on("me", "key", "b")
    assert await found(record, "c") == Reservation(Found.PLANNED, b"planned")
    await record.done("me", "key", "c", b"answer")
    assert not await record.void("me", "key", "c", LEASE_S)
    assert await found(record, "d") == Reservation(Found.DONE, b"answer")


async def test_making_void_begins_the_lease_again(record: Idempotency) -> None:
    """However late it is: while it is taken back nobody else gets the key."""
    await record.reserve("me", "key", "f", "a", PASSED_S)
    assert await record.void("me", "key", "a", LEASE_S)
    assert (await found(record, "b")).found is Found.BUSY
