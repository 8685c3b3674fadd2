"""What Redis keeps of messages that RabbitMQ has: within a bound in bytes, oldest out, never in the ledger's way."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest

from common.keys import Keys
from common.ledger.redis import RedisLedger
from common.ledger.values import Outcomes
from common.messages import Lane, Message, Outcome
from common.redis import Client, connect_redis
from common.settings import load_settings
from common.tracking.port import Status, Step
from common.tracking.redis import RedisTracker
from gateway.acceptance.limits import AcceptanceLimits
from gateway.acceptance.port import (
    Bounds,
    Exceptional,
    Group,
    GroupAnswer,
    IdempotencyKey,
    Item,
    NewRun,
    Outbox,
    Verdict,
)
from gateway.acceptance.redis import Keeping, RedisAcceptances
from tests.contract.acceptance_benches import MESSAGE_TTL_S, AcceptanceBench, redis_acceptances
from tests.servers import RedisServer

KEYS = Keys()

NUMBER = "+541166587382"
URL = "https://example.org/told"
KEY_TTL_S = 86_400
MIB = 1 << 20


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Client]:
    redis_server.flush()
    client = await connect_redis(
        load_settings(redis_host=redis_server.host, redis_port=redis_server.port), 10
    )
    yield client
    await client.config_set("maxmemory", 0)
    await client.aclose()


class Gateway:
    """A gateway on a bench, which accepts into one run and relays it."""

    def __init__(self, bench: AcceptanceBench, outbox: Outbox) -> None:
        self.bench = bench
        self.outbox = outbox
        self.calls = 0

    @classmethod
    async def on(cls, bench: AcceptanceBench) -> "Gateway":
        return cls(bench, await bench.acceptances.open("singles", Lane.BULK))

    async def accept(self, *items: Item) -> GroupAnswer:
        self.calls += 1
        return await self.bench.acceptances.accept(self.outbox, Group(self.calls, items, accepted_us=7))

    async def relay(self, upto: int) -> None:
        await self.bench.acceptances.confirm(self.outbox.lease, upto)

    async def known(self, count: int) -> list[bool]:
        found = await self.bench.tracker.records("singles", range(count))
        return [record is not None for record in found]


def texts_of(run: str, count: int, **more: Any) -> NewRun:
    messages = [Message(seq, NUMBER, f"text {seq}") for seq in range(count)]
    return NewRun(run=run, messages=messages, lane=Lane.BULK, accepted_us=7, **more)


def keyed(key: str) -> Item:
    return Item(NUMBER, "text", key=IdempotencyKey("me", key, "request"))


async def counted(client: Client) -> int:
    return int(await client.hget(KEYS.outbox_totals, "kept_bytes") or 0)


async def test_the_oldest_messages_make_room_and_what_waits_never_does(client: Client) -> None:
    """Only what RabbitMQ has is removed, the oldest first, with its callback; the ledger still knows its status."""
    gateway = await Gateway.on(await redis_acceptances(client, Bounds(), kept_bytes=2_000))
    for _ in range(6):
        await gateway.accept(Item(NUMBER, "text", callback_url=URL))
    assert await counted(client) == 0
    assert await gateway.known(6) == [True] * 6
    await gateway.relay(5)
    await gateway.bench.acceptances.trim()
    assert await gateway.known(6) == [False, False, False, True, True, True]
    assert await client.exists(*(KEYS.callback(f"singles.{seq}") for seq in range(6))) == 3
    assert await client.zrange(KEYS.callbacks, 0, -1) == [b"singles.3", b"singles.4", b"singles.5"]
    assert 0 < await counted(client) <= 2_000
    assert await gateway.bench.acceptances.read(gateway.outbox, 5, 1) == [Message(5, NUMBER, "text")]
    assert (await gateway.bench.ledger.snapshot("singles")).published == 6


async def test_texts_of_a_run_make_room_group_by_group(client: Client) -> None:
    """Those that are relayed, although the others of the same run still wait; nothing is left in the end."""
    bench = await redis_acceptances(client, Bounds(), kept_bytes=0)
    outbox = await bench.acceptances.accept_run(texts_of("texts", 1_234, track=False))
    assert isinstance(outbox, Outbox)
    await bench.acceptances.confirm(outbox.lease, 700)
    await bench.acceptances.trim()
    found = await bench.acceptances.read(outbox, 0, 1_234)
    assert found[:500] == [None] * 500
    assert found[500:] == texts_of("texts", 1_234, track=False).messages[500:]
    await bench.acceptances.confirm(outbox.lease, 1_234)
    await bench.acceptances.trim()
    assert not await client.exists(KEYS.texts("texts"), KEYS.kept)
    assert (await counted(client), await bench.acceptances.backlog()) == (0, (0, 0))


@pytest.mark.parametrize("callback", [{}, {"callback_urls": {700: URL}}], ids=["plain", "callback"])
async def test_records_of_a_run_make_room_group_by_group(client: Client, callback: dict[str, Any]) -> None:
    """Some in each call, so that no call takes long."""
    bench = await redis_acceptances(client, Bounds(), kept_bytes=0)
    key = IdempotencyKey("me", "key", "request")
    outbox = await bench.acceptances.accept_run(texts_of("a-run", 3_000, track=True, key=key, **callback))
    assert isinstance(outbox, Outbox)
    await bench.acceptances.confirm(outbox.lease, 3_000)
    assert await client.exists(KEYS.message("a-run.0"))
    await bench.acceptances.confirm(outbox.lease, 3_000)
    assert 0 < len(await client.keys(KEYS.message("*"))) < 3_000
    await bench.acceptances.trim()
    left = [await client.keys(pattern("*")) for pattern in (KEYS.message, KEYS.callback)]
    assert [*left, await client.keys("sms:idempotency-key:*")] == [[], [], []]
    assert await counted(client) == 0


async def test_idempotency_keys_are_kept_without_number_and_text_and_make_room_too(client: Client) -> None:
    """They hold a fingerprint and an id. When they are gone, the same request is a new one."""
    gateway = await Gateway.on(await redis_acceptances(client, Bounds(), kept_bytes=1_000))
    for key in ("a", "b", "c"):
        await gateway.accept(keyed(key))
    assert await client.get(KEYS.idempotency_key("me", "a")) == b"request singles.0"
    assert KEY_TTL_S - 5 < await client.ttl(KEYS.idempotency_key("me", "a")) <= KEY_TTL_S
    await gateway.relay(3)
    await gateway.bench.acceptances.trim()
    replayed = Exceptional(Verdict.REPLAYED, "singles.2")
    assert (await gateway.accept(keyed("a"), keyed("c"))).exceptions == {1: replayed}


async def test_what_has_expired_is_counted_no_longer(client: Client) -> None:
    """Messages after MESSAGE_TTL; those with an idempotency key when the key expires."""
    gateway = await Gateway.on(await redis_acceptances(client, Bounds()))
    await gateway.accept(Item(NUMBER, "text"))
    await gateway.accept(keyed("a"))
    await gateway.relay(2)
    both = await counted(client)
    await gateway.bench.leap(MESSAGE_TTL_S + 1)
    await gateway.relay(2)
    assert 0 < await counted(client) < both
    await gateway.bench.leap(KEY_TTL_S)
    await gateway.relay(2)
    assert await counted(client) == 0
    assert not await client.exists(KEYS.kept)


async def test_it_gives_way_when_redis_is_nearly_full_for_another_reason(client: Client) -> None:
    """Beyond 85 % of maxmemory, the oldest are removed although they are within their own bound."""
    gateway = await Gateway.on(await redis_acceptances(client, Bounds()))
    for _ in range(100):
        await gateway.accept(*(Item(NUMBER, "x" * 500) for _ in range(50)))
    await gateway.relay(5_000)
    kept = await gateway.bench.acceptances.trim()
    used = (await client.info("memory"))["used_memory"]
    await client.config_set("maxmemory", int(used / 0.9))
    now = await gateway.bench.acceptances.trim()
    assert 0 < now.bytes < kept.bytes
    assert (now.memory_bytes, now.most_bytes) == (int(used / 0.9), int(0.4 * int(used / 0.9)))
    assert (await gateway.known(5_000))[-1]


async def walk(ledger: RedisLedger, tracker: RedisTracker, run: str, messages: Sequence[Message]) -> None:
    """Claims and settles messages, with the steps of a sender."""
    seqs = np.array([message.seq for message in messages], np.int64)
    await ledger.claim(run, seqs, False)
    for status in (Status.SENDING, Status.SENT):
        steps = [
            Step(run=run, message=m, status=status, attempt=1, at_us=1_700_000_000_000_000) for m in messages
        ]
        await tracker._send(steps)
    outcomes = np.full(seqs.size, Outcome.SENT, np.uint8)
    await ledger.settle(run, Outcomes(seqs, outcomes, np.full(seqs.size, 1_000, np.int64)), "sender")


@pytest.mark.parametrize(
    "kind",
    [{}, {"callback_url": URL}, {"callback_url": URL + "x" * 1_900}],
    ids=["plain", "callback", "long"],
)
async def test_redis_full_of_texts_stops_neither_the_ledger_nor_an_urgent_message(
    client: Client, kind: dict[str, str]
) -> None:
    """A day's messages at several times what Redis holds, scaled down: it never refuses a call, and never fills up."""
    base = (await client.info("memory"))["used_memory"]
    most = base + 4 * MIB
    await client.config_set("maxmemory", most)
    store = RedisAcceptances(client, tracker := RedisTracker(client), "q", "gateway", Keeping())
    ledger = RedisLedger(client)
    await store.trim()
    singles = await store.open("singles", Lane.BULK)
    relayed, number, counted_bytes = 0, 0, 0
    while counted_bytes < 3 * most:
        number += 1
        items = [
            Item(NUMBER, "x" * 140, key=IdempotencyKey("me", f"{number}-{k:050}", "f" * 64), **kind)
            for k in range(100)
        ]
        async with asyncio.timeout(5):
            group = Group(number, items, accepted_us=1_700_000_000_000_000, relayed=relayed)
            answer = await store.accept(singles, group)
            assert answer == GroupAnswer(relayed)
            messages = [item.message(relayed + k) for k, item in enumerate(items)]
            await walk(ledger, tracker, "singles", messages)
        relayed += len(items)
        counted_bytes += 100 * (1_000 + len(kind.get("callback_url", "")))
        used = (await client.info("memory"))["used_memory"]
        assert used < most
    await store.confirm(singles.lease, relayed)
    kept = await store.trim()
    assert 0.5 * kept.most_bytes < kept.bytes <= kept.most_bytes == int(0.4 * most)
    async with asyncio.timeout(5):
        urgent = await store.open("urgent", Lane.URGENT)
        await store.accept(urgent, Group(1, [Item(NUMBER, "fire")], accepted_us=1_700_000_000_000_000))
        await walk(ledger, tracker, "urgent", [Message(0, NUMBER, "fire")])
    now = await ledger.snapshot()
    assert (now.sent, now.published) == (relayed + 1, relayed + 1)
    track = await tracker.track("urgent", 0)
    assert track is not None
    assert [step.status for step in track.steps] == ["queued", "sending", "sent"]
    await tracker.close()


def test_texts_that_were_staged_in_vain_are_soon_gone() -> None:
    """They count for no bound, and a batch that Redis had no room for leaves up to 25 MB."""
    longest_s = AcceptanceLimits().run_answer_s
    assert 2 * longest_s <= Keeping().staged_s <= 4 * longest_s


async def test_what_filled_redis_before_there_was_a_bound_gives_way_within_a_look(client: Client) -> None:
    """At its limit, Redis refuses every write; what is kept for show is removed nevertheless."""
    gateway = await Gateway.on(await redis_acceptances(client, Bounds()))
    for _ in range(40):
        await gateway.accept(*(Item(NUMBER, "x" * 500) for _ in range(50)))
    await gateway.relay(2_000)
    await client.config_set("maxmemory", (await client.info("memory"))["used_memory"] - 1)
    await gateway.bench.acceptances.trim()
    async with asyncio.timeout(5):
        await gateway.accept(Item(NUMBER, "text"))
        await gateway.bench.ledger.claim("singles", np.array([0]), False)
