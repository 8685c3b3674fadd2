"""A store of callbacks: what gateway/callbacks/port.py promises, held by the one in memory and by the one in Redis.

Both run on a clock that the test moves; the scripts' own is Redis's.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from itertools import count
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from common import keys
from common.messages import Message
from common.tracking.port import Record, Status
from gateway.callbacks.memory import MemoryCallbacks
from gateway.callbacks.port import FIRST_LOOK_S, RETRY_ROOM_S, Callbacks, Ending, Owed
from gateway.callbacks.redis import PIECE, RedisCallbacks
from tests.servers import RedisServer

TTL_S = 3600.0
LEASE_S = 60.0
URL = "https://example.com/hook?a=b"


class Bench:
    """A store under test and its clock."""

    def __init__(self, callbacks: Callbacks, leap: Callable[[float], Awaitable[None]]) -> None:
        self.callbacks = callbacks
        self.leap = leap

    async def owing(self, *seqs: int) -> list[str]:
        records = [record(seq) for seq in seqs]
        await self.callbacks.owe(records)
        return [record.uuid for record in records]

    async def taken(self, *uuids: str) -> list[Owed]:
        return await self.callbacks.take(uuids, LEASE_S)

    async def due(self, limit: int = 1000) -> list[str]:
        return await self.callbacks.due(limit)


def record(seq: int, url: str = URL) -> Record:
    return Record(
        run="run-1", message=Message(seq, "+541166587382", "secret"), accepted_us=1, callback_url=url
    )


async def on_clock(client: Redis) -> tuple[RedisCallbacks, Callable[[float], Awaitable[None]]]:
    """The store with its scripts' clock replaced by keys that the test sets, and nothing else."""
    callbacks = RedisCallbacks(client, TTL_S)
    now_us = 1_000_000_000_000
    for name in callbacks._scripts:
        lua = (files("gateway.callbacks") / "lua" / f"{name}.lua").read_text()
        assert lua.count("redis.call('TIME')") == 1
        callbacks._scripts[name] = client.register_script(
            lua.replace("redis.call('TIME')", "redis.call('MGET', 'test:clock_s', 'test:clock_us')")
        )

    async def leap(seconds: float) -> None:
        nonlocal now_us
        now_us += round(seconds * 1e6)
        await client.mset({"test:clock_s": now_us // 1_000_000, "test:clock_us": now_us % 1_000_000})

    await leap(0)
    return callbacks, leap


@asynccontextmanager
async def client_of(server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis(host=server.host, port=server.port) as client:
        server.flush()
        yield client
        server.flush()


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with client_of(redis_server) as client:
        yield client


@pytest.fixture(params=["memory", "redis"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "redis":
        async with client_of(request.getfixturevalue("redis_server")) as client:
            yield Bench(*await on_clock(client))
        return
    now = [1_000_000.0]

    async def leap(seconds: float) -> None:
        now[0] += seconds

    yield Bench(MemoryCallbacks(TTL_S, lambda: now[0]), leap)


async def test_what_is_owed_is_due_after_a_while_and_taken_as_it_was_left(bench: Bench) -> None:
    """With its number, URL and age; what is not owed is not there to take."""
    (uuid,) = await bench.owing(7)
    assert await bench.due() == []
    await bench.leap(FIRST_LOOK_S)
    assert await bench.due() == [uuid] == ["run-1.7"]
    (owed,) = await bench.taken("run-1.6", uuid, "nosuch.0")
    assert (owed.run, owed.seq, owed.uuid) == ("run-1", 7, uuid)
    assert (owed.number, owed.url, owed.tries, owed.ending) == ("+541166587382", URL, 0, None)
    assert owed.age_s == pytest.approx(FIRST_LOOK_S)
    assert bench.callbacks.ttl_s == TTL_S


async def test_it_can_be_taken_before_it_is_due(bench: Bench) -> None:
    """As soon as somebody hears that its message has ended."""
    (uuid,) = await bench.owing(1)
    assert len(await bench.taken(uuid)) == 1
    await bench.leap(FIRST_LOOK_S)
    assert await bench.due() == []


async def test_one_taker_at_a_time_and_a_dead_one_s_lease_passes(bench: Bench) -> None:
    """Nobody else has it meanwhile; once the lease is over it is due, and another's."""
    (uuid,) = await bench.owing(1)
    (first,) = await bench.taken(uuid)
    await bench.leap(LEASE_S - 0.1)
    assert await bench.taken(uuid) == []
    assert await bench.due() == []
    await bench.leap(0.1)
    assert await bench.due() == [uuid]
    (second,) = await bench.taken(uuid)
    assert second.lease != first.lease
    # The first one comes back from the dead: what it says of the callback counts no more.
    await bench.callbacks.put_off([(msgspec.structs.replace(first, tries=5), 0)])
    assert await bench.taken(uuid) == []
    await bench.leap(LEASE_S)
    assert (await bench.taken(uuid))[0].tries == 0


async def test_takers_at_once_share_what_there_is(bench: Bench) -> None:
    """Ten takers of the same 300: each callback goes to one of them."""
    uuids = await bench.owing(*range(300))
    taken = await asyncio.gather(*(bench.taken(*uuids) for _ in range(10)))
    assert sorted(owed.uuid for part in taken for owed in part) == sorted(uuids)


async def test_what_is_put_off_is_free_and_remembers(bench: Bench) -> None:
    """Its tries and how the message ended are there again when it is taken next, before or after it is due."""
    (uuid,) = await bench.owing(1)
    for ending in (Ending(Status.SENT, 2, 1_795_000_000_123_456), Ending(Status.FAILED, 1, None)):
        (owed,) = await bench.taken(uuid)
        await bench.callbacks.put_off([(msgspec.structs.replace(owed, tries=3, ending=ending), 90.5)])
        await bench.leap(90.4)
        assert await bench.due() == []
        await bench.leap(0.1)
        assert await bench.due() == [uuid]
        (owed,) = await bench.taken(uuid)
        assert (owed.tries, owed.ending) == (3, ending)
        await bench.callbacks.put_off([(owed, 0)])
        assert await bench.due() == [uuid]


async def test_what_is_dropped_is_owed_no_longer(bench: Bench) -> None:
    """Whether somebody holds it or not; the rest stays, and a holder that comes late brings nothing back."""
    one, two, three = await bench.owing(1, 2, 3)
    (held,) = await bench.taken(one)
    await bench.callbacks.drop([one, two, "nosuch.0"])
    await bench.callbacks.put_off([(held, 0)])
    await bench.leap(LEASE_S)
    assert await bench.due() == [three]
    assert [owed.uuid for owed in await bench.taken(one, two, three)] == [three]


async def test_each_call_gives_the_same_when_repeated(bench: Bench) -> None:
    """Owing again changes nothing of what is owed, nor does putting off or dropping again."""
    (uuid,) = await bench.owing(1)
    await bench.leap(2)
    await bench.callbacks.owe([record(1, "https://example.com/other")])
    (owed,) = await bench.taken(uuid)
    assert owed.url == URL
    assert owed.age_s == pytest.approx(2)
    for _ in range(2):
        await bench.callbacks.put_off([(msgspec.structs.replace(owed, tries=1), 30)])
        await bench.leap(15)
    assert await bench.due() == [uuid]
    assert (await bench.taken(uuid))[0].tries == 1
    for _ in range(2):
        await bench.callbacks.drop([uuid])
        assert await bench.taken(uuid) == []


async def test_the_longest_waiting_come_first_and_no_more_than_asked_for(bench: Bench) -> None:
    """So that nobody waits for ever where there is much."""
    for seq in (3, 1, 2):
        await bench.owing(seq)
        await bench.leap(0.5)
    await bench.leap(FIRST_LOOK_S)
    assert await bench.due() == ["run-1.3", "run-1.1", "run-1.2"]
    assert await bench.due(2) == ["run-1.3", "run-1.1"]
    await bench.taken("run-1.3")
    assert await bench.due(2) == ["run-1.1", "run-1.2"]


async def test_more_than_one_call_holds(bench: Bench) -> None:
    """Owed, taken, put off and dropped, all of them."""
    uuids = await bench.owing(*range(2 * PIECE + 3))
    await bench.leap(FIRST_LOOK_S)
    assert sorted(await bench.due(10_000)) == sorted(uuids)
    taken = await bench.taken(*uuids)
    assert [owed.uuid for owed in taken] == uuids
    assert [owed.seq for owed in taken] == list(range(2 * PIECE + 3))
    await bench.callbacks.put_off([(owed, 0) for owed in taken])
    assert len(await bench.due(10_000)) == len(uuids)
    await bench.callbacks.drop(uuids)
    assert await bench.due(10_000) == []


async def test_nothing_is_nothing(bench: Bench) -> None:
    """Empty calls do nothing."""
    await bench.callbacks.owe([])
    await bench.callbacks.put_off([])
    await bench.callbacks.drop([])
    assert await bench.callbacks.take([], LEASE_S) == []


async def test_redis_keeps_no_text_and_forgets_by_itself(client: Redis) -> None:
    """What nobody ever looks at again goes after the message's time and that of its tries, its id at the next look."""
    callbacks, leap = await on_clock(client)
    await callbacks.owe([record(1)])
    kept = await client.hgetall(keys.callback("run-1.1"))
    assert "example.com" in repr(kept)
    assert "secret" not in repr(kept)
    left_s = await client.pttl(keys.callback("run-1.1")) / 1000
    assert TTL_S + RETRY_ROOM_S - 60 < left_s <= TTL_S + RETRY_ROOM_S
    await client.delete(keys.callback("run-1.1"))
    await leap(FIRST_LOOK_S)
    assert await callbacks.due(10) == ["run-1.1"]
    assert await callbacks.take(["run-1.1"], LEASE_S) == []
    assert await client.zcard(keys.CALLBACKS) == 0


async def test_memory_forgets_what_is_too_old() -> None:
    """At the same age as Redis does."""
    now = [0.0]
    callbacks = MemoryCallbacks(TTL_S, lambda: now[0])
    await callbacks.owe([record(1)])
    now[0] += TTL_S + RETRY_ROOM_S + 1
    assert await callbacks.take(["run-1.1"], LEASE_S) == []
    assert await callbacks.due(10) == []


async def test_nothing_is_lost_or_doubled_where_answers_are(client: Redis) -> None:
    """Every second answer is lost, after the script has done its work: what is taken then is held, and not for ever."""
    callbacks, leap = await on_clock(client)
    calls = count()

    def losing(script: Any) -> Any:
        async def call(**arguments: Any) -> Any:
            answer = await script(**arguments)
            if next(calls) % 2 == 0:
                raise ConnectionError("the connection broke")
            return answer

        return call

    for name, script in callbacks._scripts.items():
        callbacks._scripts[name] = losing(script)
    await callbacks.owe([record(1), record(2)])
    (owed, other) = await callbacks.take(["run-1.1", "run-1.2"], LEASE_S)
    await callbacks.put_off([(msgspec.structs.replace(owed, tries=1), 10)])
    await leap(10)
    assert await callbacks.due(10) == ["run-1.1"]
    assert (await callbacks.take(["run-1.1"], LEASE_S))[0].tries == 1
    await callbacks.drop([other.uuid])
    assert await client.zcard(keys.CALLBACKS) == 1


async def test_redis_s_own_clock_is_used(client: Redis) -> None:
    """The scripts as they are: what is put off until now is due, and what is leased is not."""
    callbacks = RedisCallbacks(client, TTL_S)
    await callbacks.owe([record(1), record(2)])
    assert await callbacks.due(10) == []
    taken = await callbacks.take(["run-1.1", "run-1.2"], LEASE_S)
    assert all(0 <= owed.age_s < 60 for owed in taken)
    await callbacks.put_off([(taken[0], 0)])
    assert await callbacks.due(10) == ["run-1.1"]
