"""The rate limit's promises (common/rate/port.py), held by the one in memory and by the one in Redis.

Both run on a clock that the test moves. That of the script is Redis's own but for the tests at the end.
"""

import asyncio
import math
import random
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from itertools import count
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from common.keys import Keys
from common.messages import Lane
from common.rate.memory import MemoryRateLimit
from common.rate.port import (
    JITTER,
    TIMING,
    RateLimit,
    bucket_of,
    part_of,
)
from common.rate.redis import RedisRateLimit
from common.redis import Client
from tests.servers import RedisServer

KEYS = Keys()

BULK, URGENT = Lane.BULK, Lane.URGENT
EVERYTHING = 10**9
# Rounding, in tokens: Redis counts whole microseconds.
A_LITTLE = 1e-3


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now_us = 10_000_000_000

    def __call__(self) -> float:
        return self.now_us / 1e6

    def leap(self, seconds: float) -> None:
        self.now_us += math.ceil(seconds * 1e6)


Make = Callable[[float], RateLimit]


class Bench:
    """Limits under test: those of one rate made here share a bucket."""

    def __init__(self, clock: Clock, make: Make) -> None:
        self.clock = clock
        self.make = make


@asynccontextmanager
async def client_of(server: RedisServer) -> AsyncIterator[Client]:
    client = Client(server.settings)
    try:
        yield client
    finally:
        await client.aclose()


def on_clock(limit: RedisRateLimit, client: Client, clock: Clock) -> RedisRateLimit:
    """The limit with its script's clock replaced, and nothing else."""
    lua = (files("common.rate") / "take.lua").read_text()
    assert lua.count("redis.call('TIME')") == 1
    script = client.register_script(lua.replace("redis.call('TIME')", "{ARGV[#ARGV - 1], ARGV[#ARGV]}"))

    def take(keys: list[str], args: list[Any]) -> Any:
        return script(keys=keys, args=[*args, *divmod(clock.now_us, 1_000_000)])

    limit._take = take  # type: ignore[assignment]
    return limit


@pytest.fixture(params=["memory", "redis"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    clock = Clock()
    if request.param == "memory":
        shared: dict[float, MemoryRateLimit] = {}

        def make(rate: float) -> RateLimit:
            return shared.setdefault(rate, MemoryRateLimit(rate, clock))

        yield Bench(clock, make)
        return
    key = KEYS.rate(secrets.token_hex(4))
    async with client_of(request.getfixturevalue("redis_server")) as client:
        yield Bench(clock, lambda rate: on_clock(RedisRateLimit(client, key, rate), client, clock))


async def emptied(bench: Bench, rate: float) -> RateLimit:
    """A limit whose bucket is empty."""
    limit = bench.make(rate)
    await limit.take(BULK, EVERYTHING)
    return limit


async def waits_until_granted(bench: Bench, limit: RateLimit, lane: Lane, wanted: int) -> tuple[float, int]:
    """Waits as it is told until something is granted: how long in all, and how much that is."""
    began_us = bench.clock.now_us
    for _ in range(1000):
        grant = await limit.take(lane, wanted)
        if grant.granted:
            return (bench.clock.now_us - began_us) / 1e6, grant.granted
        assert TIMING.shortest_wait_s <= grant.wait_s <= TIMING.longest_wait_s
        bench.clock.leap(grant.wait_s)
    raise AssertionError("nothing granted after 1000 waits")


def assert_no_window_over(rate: float, grants: list[tuple[float, float, int]]) -> None:
    """No window has more than rate · T + bucket; a grant is (asked at, answered at, granted)."""
    assert sum(granted for _, _, granted in grants) > 2 * bucket_of(rate), "too few to show anything"
    for begins in {asked for asked, _, _ in grants}:
        total = 0
        for ends, granted in sorted(
            (answered, granted) for asked, answered, granted in grants if asked >= begins
        ):
            total += granted
            assert total <= rate * (ends - begins) + bucket_of(rate) + A_LITTLE


@pytest.mark.parametrize("takers", [1, 5])
@pytest.mark.parametrize("rate", [0.3, 4.0, 250.0, 1e6])
async def test_no_window_has_more_than_the_rate_allows(bench: Bench, rate: float, takers: int) -> None:
    """However impatient or late, urgent or not the takers are: at most rate · T and one bucket, in any T seconds."""
    chance = random.Random(1)
    limits = [bench.make(rate) for _ in range(takers)]
    grants = []
    for _ in range(300):
        wanted = chance.randint(1, math.ceil(2 * bucket_of(rate)))
        grant = await chance.choice(limits).take(chance.choice([BULK, BULK, URGENT]), wanted)
        assert 0 <= grant.granted <= wanted
        grants.append((bench.clock(), bench.clock(), grant.granted))
        bench.clock.leap(chance.choice([0, chance.random() * grant.wait_s, chance.random() / rate]))
    assert_no_window_over(rate, grants)


@pytest.mark.parametrize("rate", [0.3, 4.0, 250.0, 1e6])
async def test_who_waits_as_told_is_granted_all_that_the_rate_allows(bench: Bench, rate: float) -> None:
    """Each wait is long enough for a useful part, no more than the jitter too long, and nothing overflows meanwhile."""
    limit = await emptied(bench, rate)
    began_us, total = bench.clock.now_us, 0
    for _ in range(50):
        waited_s, granted = await waits_until_granted(bench, limit, BULK, EVERYTHING)
        assert granted >= math.floor(part_of(rate))
        assert waited_s <= (1 + JITTER) * part_of(rate) / rate + A_LITTLE
        total += granted
    due = rate * (bench.clock.now_us - began_us) / 1e6
    assert due - 1 <= total <= due + 1


async def test_a_grant_in_full_asks_for_no_wait_and_a_want_of_nothing_takes_nothing(bench: Bench) -> None:
    """The one token of the beginning is there for whoever wants one, until it is taken."""
    limit = bench.make(0.5)
    for wanted, granted, waits in ((0, 0, False), (1, 1, False), (1, 0, True)):
        grant = await limit.take(BULK, wanted)
        assert (grant.granted, grant.wait_s > 0) == (granted, waits)


async def test_it_begins_with_one_and_a_pause_or_a_clock_that_jumps_ahead_fills_one_bucket(
    bench: Bench,
) -> None:
    """Neither a new limit nor an hour's silence is worth more than the bucket holds."""
    limit = bench.make(100)
    assert (await limit.take(BULK, EVERYTHING)).granted == 1
    bench.clock.leap(3600)
    assert (await limit.take(BULK, EVERYTHING)).granted == 11
    assert (await limit.take(BULK, EVERYTHING)).granted == 0


async def test_a_repeated_take_finds_less(bench: Bench) -> None:
    """Takes at one moment share what the bucket has, so that one repeated after a lost answer is never given more."""
    limit = await emptied(bench, 100)
    bench.clock.leap(1)
    assert [(await limit.take(BULK, 4)).granted for _ in range(5)] == [4, 4, 3, 0, 0]


@pytest.mark.parametrize("rate", [0.3, 4.0, 250.0])
async def test_a_clock_that_jumps_back_gives_nothing_and_holds_nobody_up(bench: Bench, rate: float) -> None:
    """Time is counted from the new time of day: the wait is the same as ever, and so is what it brings."""
    limit = await emptied(bench, rate)
    bench.clock.leap(-3600)
    assert (await limit.take(BULK, EVERYTHING)).granted == 0
    waited_s, granted = await waits_until_granted(bench, limit, BULK, EVERYTHING)
    assert waited_s <= (1 + JITTER) * part_of(rate) / rate + A_LITTLE
    assert granted <= rate * waited_s + A_LITTLE + 1


async def test_bulk_gets_nothing_before_an_urgent_taker_has_all_it_waits_for(bench: Bench) -> None:
    """Whoever asks more often: tokens that come in are kept for the urgent taker, and after it bulk goes on."""
    limit = await emptied(bench, 10)
    assert (await limit.take(URGENT, 2)).granted == 0
    bench.clock.leap(0.15)
    assert (await limit.take(BULK, 5)).granted == 0
    assert (await limit.take(URGENT, 2)).granted == 1
    bench.clock.leap(0.06)
    assert (await limit.take(BULK, 5)).granted == 0
    assert (await limit.take(URGENT, 1)).granted == 1
    bench.clock.leap(0.1)
    assert (await limit.take(BULK, 5)).granted == 1


async def test_a_bulk_taker_is_told_to_wait_for_the_urgent_one_too(bench: Bench) -> None:
    """Its wait ends when the urgent taker's rest and a part for itself can be there."""
    limit = await emptied(bench, 10)
    await limit.take(URGENT, 2)
    wait_s = (await limit.take(BULK, 5)).wait_s
    assert 0.3 - 1e-5 <= wait_s <= 0.3 * (1 + JITTER) + 1e-5


async def test_bulk_gets_what_is_left_beyond_what_urgent_takers_wait_for(bench: Bench) -> None:
    """An urgent taker that is slow to ask again keeps its share, and no more than that."""
    limit = await emptied(bench, 100)
    await limit.take(URGENT, 3)
    bench.clock.leap(0.081)
    assert (await limit.take(BULK, 20)).granted == 5
    assert (await limit.take(URGENT, 3)).granted == 3


@pytest.mark.parametrize("jumps_s", [0, -3600])
@pytest.mark.parametrize("wanted", [1, EVERYTHING])
async def test_an_urgent_taker_that_died_bars_nobody_for_long(
    bench: Bench, wanted: int, jumps_s: float
) -> None:
    """Bulk goes on soon after the dead one should have asked again, whatever it wanted and wherever the clock jumps."""
    limit = await emptied(bench, 4)
    assert (await limit.take(URGENT, wanted)).granted == 0
    bench.clock.leap(jumps_s)
    waited_s, _ = await waits_until_granted(bench, limit, BULK, EVERYTHING)
    assert waited_s <= (1 + JITTER) * (TIMING.longest_wait_s + TIMING.patience_s)


async def test_an_urgent_taker_whose_need_is_met_by_others_leaves_no_bar(bench: Bench) -> None:
    """Urgent takers' grants come off what is kept for them, so that bulk goes on as soon as they have it."""
    one, other = await emptied(bench, 100), bench.make(100)
    await one.take(URGENT, 3)
    await other.take(URGENT, 3)
    bench.clock.leap(0.051)
    assert (await one.take(URGENT, 3)).granted == 3
    assert (await other.take(BULK, 9)).granted == 2


async def test_limits_of_other_queues_are_apart_and_those_of_one_share(redis_server: RedisServer) -> None:
    """The bucket belongs to the key, whichever client asks."""
    clock, names = Clock(), [KEYS.rate(secrets.token_hex(4)) for _ in range(2)]
    async with client_of(redis_server) as client, client_of(redis_server) as another:
        one, same, apart = (
            on_clock(RedisRateLimit(client, names[0], 1), client, clock),
            on_clock(RedisRateLimit(another, names[0], 1), another, clock),
            on_clock(RedisRateLimit(another, names[1], 1), another, clock),
        )
        assert [(await limit.take(BULK, 1)).granted for limit in (one, same, apart)] == [1, 0, 1]


@pytest.mark.parametrize("rate", [1e-4, 1.0, 1e9])
async def test_a_forgotten_bucket_had_a_token_by_then(redis_server: RedisServer, rate: float) -> None:
    """The key of an unused limit goes, but not before it would hold the one token that a new one begins with."""
    key = KEYS.rate(secrets.token_hex(4))
    async with client_of(redis_server) as client:
        await RedisRateLimit(client, key, rate).take(BULK, 1)
        assert 1 / rate < await client.pttl(key) / 1000 < 1.1 / rate + 100


async def test_takers_at_once_keep_to_the_rate_by_the_clock_of_redis(redis_server: RedisServer) -> None:
    """Five takers with a connection each, in real time and with the script as it is, one answer in ten being lost."""
    rate, key, chance, grants = 5000.0, KEYS.rate(secrets.token_hex(4)), random.Random(1), []

    async def taker(client: Client) -> None:
        limit = RedisRateLimit(client, key, rate)
        lose_answers(limit, chance)
        wanted_in_all = 0
        while wanted_in_all < 1000:
            before = await client.time()
            grant = await limit.take(chance.choice([BULK, URGENT]), 1000)
            after = await client.time()
            wanted_in_all += grant.granted
            grants.append((before[0] + before[1] / 1e6, after[0] + after[1] / 1e6, grant.granted))
            await asyncio.sleep(grant.wait_s)  # as a sender does

    async with AsyncExitStack() as clients, asyncio.TaskGroup() as tasks:
        for _ in range(5):
            tasks.create_task(taker(await clients.enter_async_context(client_of(redis_server))))
    assert_no_window_over(rate, grants)


def lose_answers(limit: RedisRateLimit, chance: random.Random) -> None:
    """Each tenth take is carried out, and the connection breaks before its answer is here."""
    really, calls = limit._take, count(chance.randint(0, 9))

    async def call(keys: list[str], args: list[Any]) -> Any:
        answer = await really(keys=keys, args=args)
        if next(calls) % 10 == 9:
            raise ConnectionError("the connection broke")
        return answer

    limit._take = call  # type: ignore[assignment]
