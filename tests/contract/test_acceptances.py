"""The store of accepted messages, in memory and in Redis: what is kept, for how long, and within which bounds."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from common.keys import Keys
from common.messages import Lane, Message
from common.publishing.recipes import Origin, origin_in
from common.redis import connect_redis
from common.settings import load_settings
from common.tracking.port import Record, Track
from gateway.acceptance.port import (
    Bounds,
    Exceptional,
    Group,
    IdempotencyKey,
    Item,
    LeaseLost,
    NewRun,
    Outbox,
    Owner,
    Verdict,
)
from gateway.acceptance.redis import RedisAcceptances
from tests.contract.acceptance_benches import (
    LEASE_S,
    STAGED_FROM,
    AcceptanceBench,
    memory_acceptances,
    redis_acceptances,
)
from tests.servers import RedisServer

KEYS = Keys()

NUMBER = "+541166587382"
URL = "https://example.org/told"
Make = Callable[[Bounds], Awaitable[AcceptanceBench]]


@pytest_asyncio.fixture(params=["memory", "redis"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes a bench with some bounds."""
    if request.param == "memory":

        async def in_memory(bounds: Bounds) -> AcceptanceBench:
            return memory_acceptances(bounds)

        yield in_memory
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    client = await connect_redis(load_settings(redis_host=server.host, redis_port=server.port), 10)
    yield lambda bounds: redis_acceptances(client, bounds)
    await client.aclose()


@pytest_asyncio.fixture
async def bench(make: Make) -> AcceptanceBench:
    return await make(Bounds())


def batch(run: str, messages: int, **more: object) -> NewRun:
    about: dict[str, object] = {"lane": Lane.BULK, "track": False, "accepted_us": 7, **more}
    return NewRun(
        run=run,
        messages=[Message(seq, NUMBER, f"text {seq}") for seq in range(messages)],
        **about,  # type: ignore[arg-type]
    )


async def test_an_accepted_message_is_there_at_once(bench: AcceptanceBench) -> None:
    """Its record can be read, its callback is registered, and it is published and queued in the ledger."""
    outbox = await bench.acceptances.open("a-run", Lane.URGENT)
    items = [Item(NUMBER, "a"), Item(NUMBER, "b", callback_url=URL)]
    answer = await bench.acceptances.accept(outbox, Group(1, items, accepted_us=7))
    assert (answer.first, answer.exceptions) == (0, {})
    record = Record(
        run="a-run", message=Message(1, NUMBER, "b"), accepted_us=7, lane=Lane.URGENT, callback_url=URL
    )
    assert await bench.tracker.track("a-run", 1) == Track(record=record, steps=[record.accepted])
    taken = await bench.callbacks.lease(["a-run.0", "a-run.1"], 60)
    assert [(one.uuid, one.number, one.url) for one in taken] == [("a-run.1", NUMBER, URL)]
    now = await bench.ledger.snapshot("a-run")
    assert (now.published, now.queued, now.total) == (2, 2, 0)


@pytest.mark.parametrize("messages", [1, STAGED_FROM, STAGED_FROM + 1])
async def test_a_run_is_accepted_whole(bench: AcceptanceBench, messages: int) -> None:
    """With its texts, whether they are staged before or not; its total is known, and it is relayed from the store."""
    outbox = await bench.acceptances.accept_run(batch("a-run", messages))
    assert isinstance(outbox, Outbox)
    assert await bench.acceptances.read(outbox, 0, messages) == batch("a-run", messages).messages
    now = await bench.ledger.snapshot("a-run")
    assert (now.published, now.total) == (messages, messages)
    assert await bench.acceptances.confirm(outbox.lease, messages) == messages
    assert await bench.acceptances.backlog() == (0, 0)
    assert await bench.acceptances.take_over(0) is None


@pytest.mark.parametrize("bounds", [Bounds(messages=2), Bounds(bytes=5_500)], ids=["messages", "bytes"])
async def test_the_bounds_count_messages_and_bytes(make: Make, bounds: Bounds) -> None:
    """What would be over one of them is refused, and leaves nothing behind; a confirm makes room."""
    bench = await make(bounds)
    outbox = await bench.acceptances.open("a-run", Lane.BULK)
    item = Item(NUMBER, "x" * 2_000)
    full = {k: Exceptional(Verdict.FULL) for k in range(2)}
    for number, expected in ((1, {}), (2, full)):
        group = Group(number, [item, item], accepted_us=7)
        assert (await bench.acceptances.accept(outbox, group)).exceptions == expected
    large = NewRun(
        run="large",
        messages=[Message(seq, NUMBER, "x" * 2_000) for seq in range(2)],
        lane=Lane.BULK,
        track=True,
        accepted_us=7,
        key=IdempotencyKey("me", "key", "request"),
    )
    assert await bench.acceptances.accept_run(large) == Exceptional(Verdict.FULL)
    assert await bench.ledger.runs() == ["a-run"]
    await bench.acceptances.confirm(outbox.lease, 2)
    assert isinstance(await bench.acceptances.accept_run(large), Outbox)


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("bounds", [Bounds(messages=2), Bounds(bytes=5_500)], ids=["messages", "bytes"])
async def test_a_run_that_no_outbox_can_hold_is_too_large(make: Make, bounds: Bounds, track: bool) -> None:
    """It would never be accepted, however often it comes again; it leaves nothing behind."""
    bench = await make(bounds)
    run = NewRun(
        run="large",
        messages=[Message(seq, NUMBER, secrets.token_hex(2_000)) for seq in range(3)],
        lane=Lane.BULK,
        track=track,
        accepted_us=7,
    )
    assert await bench.acceptances.accept_run(run) == Exceptional(Verdict.TOO_LARGE)
    assert await bench.acceptances.backlog() == (0, 0)
    assert await bench.ledger.runs() == []


async def test_a_group_is_accepted_up_to_the_bound(make: Make) -> None:
    """A burst that is larger than the room takes what there is; a repeated key takes none, and needs none."""
    bench = await make(Bounds(messages=3))
    outbox = await bench.acceptances.open("a-run", Lane.BULK)
    keyed = Item(NUMBER, "once", key=IdempotencyKey("me", "key", "request"))
    new = Item(NUMBER, "text")
    answer = await bench.acceptances.accept(
        outbox, Group(1, [keyed, keyed, new, new, new, keyed], accepted_us=7)
    )
    replayed, full = Exceptional(Verdict.REPLAYED, "a-run.0"), Exceptional(Verdict.FULL)
    assert answer.exceptions == {1: replayed, 4: full, 5: replayed}
    answer = await bench.acceptances.accept(outbox, Group(2, [new, keyed], accepted_us=7, relayed=1))
    assert (answer.first, answer.exceptions) == (3, {1: replayed})
    assert (await bench.acceptances.backlog())[0] == 3


async def test_a_repeated_accept_is_answered_after_the_run_was_closed(bench: AcceptanceBench) -> None:
    """Its first answer was lost, and another gateway has closed and relayed the run meanwhile."""
    outbox = await bench.acceptances.open("a-run", Lane.BULK)
    group = Group(1, [Item(NUMBER, "a")], accepted_us=7)
    answer = await bench.acceptances.accept(outbox, group)
    await bench.leap(2 * LEASE_S)
    taken = await bench.acceptances.take_over(silent_s=0)
    assert taken is not None
    await bench.acceptances.confirm(taken.lease, 1)
    assert await bench.acceptances.accept(outbox, group) == answer
    with pytest.raises(LeaseLost):
        await bench.acceptances.accept(outbox, Group(2, [Item(NUMBER, "b")], accepted_us=7))
    assert (await bench.ledger.snapshot()).published == 1


async def test_a_run_knows_its_owner(bench: AcceptanceBench) -> None:
    """The ledger keeps the owner; who takes the run over knows that its messages are only simulated."""
    owner = Owner("akey", simulated=True)
    opened: list[Outbox | Exceptional | None] = [
        await bench.acceptances.open("singles", Lane.BULK, owner),
        await bench.acceptances.accept_run(batch("whole", 2, owner=owner)),
    ]
    await bench.leap(2 * LEASE_S)
    opened += [await bench.acceptances.take_over(silent_s=0) for _ in range(2)]
    assert [isinstance(outbox, Outbox) and outbox.simulated for outbox in opened] == [True] * 4
    for run in ("singles", "whole"):
        assert origin_in((await bench.ledger.publication(run)).recipe) == Origin("akey", simulated=True)


async def test_what_waits_does_not_expire(redis_server: RedisServer) -> None:
    """Records and texts have no expiry before they are confirmed, and MESSAGE_TTL afterwards; staged texts expire."""
    redis_server.flush()
    settings = load_settings(redis_host=redis_server.host, redis_port=redis_server.port)
    client = await connect_redis(settings, 10)
    bench = await redis_acceptances(client, Bounds(messages=10))
    singles = await bench.acceptances.open("singles", Lane.BULK)
    await bench.acceptances.accept(singles, Group(1, [Item(NUMBER, "a"), Item(NUMBER, "b")], accepted_us=7))
    outbox = await bench.acceptances.accept_run(batch("texts", STAGED_FROM + 1))
    assert isinstance(outbox, Outbox)
    kept = [KEYS.message("singles.0"), KEYS.message("singles.1"), KEYS.texts("texts")]
    assert [await client.ttl(key) for key in kept] == [-1, -1, -1]
    await bench.acceptances.confirm(singles.lease, 1)
    await bench.acceptances.confirm(outbox.lease, STAGED_FROM)
    assert [await client.ttl(key) > 3000 for key in kept] == [True, False, False]
    await bench.acceptances.confirm(singles.lease, 2)
    await bench.acceptances.confirm(outbox.lease, STAGED_FROM + 1)
    assert all([3000 < await client.ttl(key) <= 3600 for key in kept])
    assert isinstance(bench.acceptances, RedisAcceptances)
    await bench.acceptances._stage(batch("staged", 20))
    assert 0 < await client.ttl(KEYS.texts("staged")) <= 600
    assert await bench.acceptances.accept_run(batch("staged", 20)) == Exceptional(Verdict.TOO_LARGE)
    assert not await client.exists(KEYS.texts("staged"))
    await client.aclose()


async def test_a_share_of_redis_memory_is_a_bound(redis_server: RedisServer) -> None:
    """`maxmemory` times the share; without `maxmemory` only the messages count."""
    redis_server.flush()
    settings = load_settings(redis_host=redis_server.host, redis_port=redis_server.port)
    client = await connect_redis(settings, 10)
    try:
        await client.config_set("maxmemory", 400_000_000)
        bench = await redis_acceptances(client, Bounds())
        assert isinstance(bench.acceptances, RedisAcceptances)
        assert (await bench.acceptances._current_bounds()).bytes == 100_000_000
        await client.config_set("maxmemory", 0)
        bench = await redis_acceptances(client, Bounds())
        assert isinstance(bench.acceptances, RedisAcceptances)
        assert await bench.acceptances._current_bounds() == Bounds()
    finally:
        await client.config_set("maxmemory", 0)
        await client.aclose()
