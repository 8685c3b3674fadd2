"""The relay of a run publishes in order, repeats what failed, and confirms up to where the broker has everything."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.errors import PublishFailed, Refused, Unavailable
from common.messages import Batch, Lane, Message, State, decode_batch
from common.web.problems import Problem
from gateway.acceptance.acceptance import Acceptance
from gateway.acceptance.limits import RelayLimits
from gateway.acceptance.port import Group, Item, Kept, Lease, LeaseLost, NewRun, Outbox
from gateway.acceptance.receipts import Announcer
from gateway.acceptance.relay import Relay, Room
from gateway.acceptance.relays import Relays
from tests.gateway.accepting import QUICK_RELAYS, Shared
from tests.gateway.running import NUMBER
from tests.waiting import eventually


class Manual(MemoryBroker):
    """Notes each publish, and confirms or refuses it when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[list[int]] = []
        self.confirms: list[asyncio.Future[None]] = []

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        self.published.append([message.seq for message in batch.messages])
        self.confirms.append(asyncio.get_running_loop().create_future())
        return self.confirms[-1]


class Bench:
    """A relay of an open run, beside the store."""

    def __init__(self, shared: Shared, relay: Relay, room: Room) -> None:
        self.shared = shared
        self.relay = relay
        self.room = room
        self.calls = 0

    @property
    def outbox(self) -> Outbox:
        return self.relay.outbox

    async def accept(self, messages: int, hands_over: bool = True) -> None:
        """Accepts messages; `hands_over` False: the answer is lost, so that the relay does not get them."""
        self.calls += 1
        items = [Item(NUMBER, f"text {k}") for k in range(messages)]
        answer = await self.shared.store.accept(self.outbox, Group(self.calls, items, accepted_us=7))
        if hands_over:
            self.relay.add([item.message(answer.first + k) for k, item in enumerate(items)])

    async def backlog(self) -> int:
        return (await self.shared.store.backlog())[0]


@contextlib.asynccontextmanager
async def relaying(broker: MemoryBroker, limits: RelayLimits = QUICK_RELAYS) -> AsyncIterator[Bench]:
    shared = Shared()
    outbox = await shared.store.open("a-run", Lane.BULK)
    room = Room(limits.buffered)
    relay = Relay(outbox, broker=broker, store=shared.store, ledger=shared.ledger, limits=limits, room=room)
    running = asyncio.create_task(relay.run())
    try:
        yield Bench(shared, relay, room)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert room.messages == limits.buffered


async def bodies(broker: MemoryBroker) -> list[Message]:
    """The messages in the broker, in the order of their publishes."""
    found = [decode_batch(held.body)[0] for held in broker.queues[Lane.BULK].bodies]
    return [message for batch in found for message in batch.messages]


@pytest.mark.parametrize("buffered", [0, 1, 5, 100])
@pytest.mark.parametrize("hands_over", [True, False])
async def test_all_is_published_in_order(buffered: int, hands_over: bool) -> None:
    """From memory, from the outbox, or from both: each message once, as it was accepted."""
    broker = MemoryBroker()
    limits = replace(QUICK_RELAYS, buffered=buffered, batch=3, page=4, heartbeat_s=0.01)
    async with relaying(broker, limits) as bench:
        for messages in (1, 7, 2, 11):
            await bench.accept(messages, hands_over)
        await eventually(lambda: _relayed(bench, 21))
        assert [message.seq for message in await bodies(broker)] == list(range(21))
        assert [message.text for message in await bodies(broker)][:2] == ["text 0", "text 0"]


async def _relayed(bench: Bench, messages: int) -> bool:
    return bench.relay.relayed == messages and await bench.backlog() == 0


async def test_a_confirm_out_of_order_confirms_nothing_before_it() -> None:
    """The broker has the second batch and not the first: the run is confirmed up to its beginning."""
    broker = Manual()
    async with relaying(broker, replace(QUICK_RELAYS, batch=2)) as bench:
        await bench.accept(4)
        await eventually(lambda: broker.published == [[0, 1], [2, 3]])
        broker.confirms[1].set_result(None)
        await asyncio.sleep(0)
        assert bench.relay.relayed == 0
        broker.confirms[0].set_result(None)
        await eventually(lambda: _relayed(bench, 4))


async def test_what_failed_is_published_again() -> None:
    """Until it is confirmed; what was confirmed meanwhile is not repeated."""
    broker = Manual()
    async with relaying(broker, replace(QUICK_RELAYS, batch=2)) as bench:
        await bench.accept(4)
        await eventually(lambda: len(broker.published) == 2)
        broker.confirms[0].set_exception(PublishFailed("nack"))
        broker.confirms[1].set_result(None)
        await eventually(lambda: len(broker.published) == 3)
        broker.confirms[2].set_exception(PublishFailed("nack"))
        await eventually(lambda: len(broker.published) == 4)
        broker.confirms[3].set_result(None)
        await eventually(lambda: _relayed(bench, 4))
        assert broker.published == [[0, 1], [2, 3], [0, 1], [0, 1]]


async def test_a_batch_over_the_brokers_size_limit_is_published_in_smaller_ones() -> None:
    """The operator has lowered the limit. A message that is over it by itself fails, and holds nothing up."""
    broker = MemoryBroker(most_bytes=200)
    async with relaying(broker, replace(QUICK_RELAYS, heartbeat_s=0.01)) as bench:
        items = [Item(NUMBER, "long " * 50 if k == 3 else f"text {k}") for k in range(8)]
        answer = await bench.shared.store.accept(bench.outbox, Group(1, items, accepted_us=7))
        bench.relay.add([item.message(answer.first + k) for k, item in enumerate(items)])
        bench.relay.close()
        await eventually(lambda: bench.relay.has_ended)
        assert sorted(message.seq for message in await bodies(broker)) == [0, 1, 2, 4, 5, 6, 7]
        states = (await bench.shared.ledger.states("a-run", np.arange(8))).tolist()
        assert [seq for seq, state in enumerate(states) if state == State.FAILED] == [3]


async def test_a_relay_goes_on_once_the_broker_no_longer_refuses(caplog: pytest.LogCaptureFixture) -> None:
    """A refusal that passes: a password that was changed and changed back, a limit that was raised.

    It is tried again with growing pauses, and logged once.
    """

    class Refusing(Manual):
        refuses = True
        asked = 0

        async def ready(self) -> None:
            self.asked += 1
            if self.refuses:
                raise Refused("not now")

    broker = Refusing()
    async with relaying(broker) as bench:
        await bench.accept(2)
        await eventually(lambda: len(broker.published) == 1)
        broker.confirms[0].set_exception(PublishFailed("the connection is lost"))
        await eventually(lambda: broker.asked > 3)
        assert len(broker.published) == 1
        assert caplog.messages.count("relay_delayed") == 1
        broker.refuses = False
        await eventually(lambda: len(broker.published) == 2)
        broker.confirms[1].set_result(None)
        await eventually(lambda: _relayed(bench, 2))


async def test_the_window_is_bounded() -> None:
    """As many batches as it has places wait for their confirm; the next one goes when there is room."""
    broker = Manual()
    async with relaying(broker, replace(QUICK_RELAYS, batch=1, window=3)) as bench:
        await bench.accept(5)
        await eventually(lambda: len(broker.published) == 3)
        broker.confirms[0].set_result(None)
        await eventually(lambda: len(broker.published) == 4)
        assert broker.published == [[0], [1], [2], [3]]


async def test_a_lost_text_does_not_hold_the_run_up() -> None:
    """Messages whose text is gone are settled as failed; those beside them are published, and the run ends."""
    broker = MemoryBroker()
    limits = replace(QUICK_RELAYS, batch=2, heartbeat_s=0.01)
    async with relaying(broker, limits) as bench:
        run = bench.shared.store._runs["a-run"]
        bench.calls += 1
        await bench.shared.store.accept(
            bench.outbox, Group(bench.calls, [Item(NUMBER, "text")] * 5, accepted_us=7)
        )
        for seq in (1, 2, 3, 4):
            run.messages[seq] = None  # type: ignore[assignment]
        bench.relay.close()
        await eventually(lambda: bench.relay.has_ended)
        states = (await bench.shared.ledger.states("a-run", np.arange(5))).tolist()
        assert states == [State.QUEUED, *[State.FAILED] * 4]
        assert [message.seq for message in await bodies(broker)] == [0]
        assert await bench.backlog() == 0


async def test_a_closed_run_that_waits_costs_a_heartbeat() -> None:
    """Thousands of runs may wait for the broker: the store is called for one only when there is something new."""
    broker = Manual()
    async with relaying(broker, replace(QUICK_RELAYS, batch=1, confirm_s=0.001, heartbeat_s=3_600)) as bench:
        await bench.accept(2)
        store, calls = bench.shared.store, 0
        confirm = store.confirm

        async def counted(lease: Lease, relayed: int, close: bool = False) -> int:
            nonlocal calls
            calls += 1
            return await confirm(lease, relayed, close)

        store.confirm = counted  # type: ignore[method-assign]
        bench.relay.close()
        await eventually(lambda: len(broker.published) == 2 and calls == 1, describe="it is closed")
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert calls == 1
        for done in broker.confirms:
            done.set_result(None)
        await eventually(lambda: bench.relay.has_ended)
        assert await bench.backlog() == 0


async def test_a_gateway_that_slept_loses_no_text_of_another() -> None:
    """Records that expired after another gateway had relayed them are not settled as failed."""
    shared = Shared()
    outbox = await shared.store.open("a-run", Lane.BULK)
    await shared.store.accept(outbox, Group(1, [Item(NUMBER, "text")], accepted_us=7))

    class Expired:
        """The store, as Redis has it: a read does not look at the lease."""

        async def read(self, outbox: Outbox, first: int, count: int) -> list[Message | None]:
            return [None] * count

        def __getattr__(self, name: str) -> object:
            return getattr(shared.store, name)

    shared.now_s += 60
    other = await shared.store.take_over(silent_s=0)
    assert other is not None
    await shared.store.confirm(other.lease, 1)
    stale = msgspec.structs.replace(outbox, accepted=1)
    relays = Relays(MemoryBroker(), Expired(), shared.ledger, QUICK_RELAYS)  # type: ignore[arg-type]
    relay = relays.start(stale)
    await eventually(lambda: relay.has_ended)
    assert (await shared.ledger.states("a-run", np.arange(1))).tolist() == [State.QUEUED]
    await relays.close()


async def test_no_more_runs_are_relayed_than_allowed() -> None:
    """Each run costs memory and heartbeats: while the broker is away, batches are refused beyond a limit."""
    shared, broker = Shared(), Manual()
    relays = Relays(broker, shared.store, shared.ledger, replace(QUICK_RELAYS, runs=1))
    acceptance = Acceptance(shared.store, relays, Announcer(lambda _: None, lambda _: None))

    def batch(run: str) -> NewRun:
        messages = [Message(0, NUMBER, "text")]
        return NewRun(run=run, messages=messages, lane=Lane.BULK, track=False, accepted_us=7)

    await acceptance.accept_run(batch("first"))
    with pytest.raises(Problem, match="nothing was accepted"):
        await acceptance.accept_run(batch("second"))
    assert await shared.ledger.runs() == ["first"]
    await eventually(lambda: broker.confirms)
    broker.confirms[0].set_result(None)
    await eventually(lambda: not relays.are_full)
    await acceptance.accept_run(batch("second"))
    await acceptance.close()


async def test_a_lease_that_is_lost_ends_the_relay() -> None:
    """Another gateway has taken the run over: it confirms nothing more."""
    broker = Manual()
    async with relaying(broker) as bench:
        bench.shared.now_s += 60
        assert await bench.shared.store.take_over(silent_s=0) is not None
        await eventually(lambda: bench.relay.has_ended)
        with pytest.raises(LeaseLost):
            await bench.accept(1)


async def test_after_an_outage_of_the_store_leases_have_time_to_be_renewed() -> None:
    """Nobody takes a run over before the store has answered for `settled_s`."""
    shared = Shared()
    looks = 0

    class Away:
        """The store; its first looks fail."""

        async def backlog(self) -> tuple[int, int]:
            nonlocal looks
            looks += 1
            if looks <= 3:
                raise Unavailable("Redis is away")
            return await shared.store.backlog()

        def __getattr__(self, name: str) -> object:
            return getattr(shared.store, name)

    await shared.store.open("theirs", Lane.BULK)
    shared.now_s += 60
    limits = replace(QUICK_RELAYS, settled_s=0.1)
    relays = Relays(MemoryBroker(), Away(), shared.ledger, limits)  # type: ignore[arg-type]
    looking = asyncio.create_task(relays.run())
    await eventually(lambda: looks > 3)
    assert not shared.store._runs["theirs"].closed
    await eventually(lambda: shared.store._runs["theirs"].closed, describe="it is taken over")
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    await relays.close()


async def test_a_store_that_is_nearly_full_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """At 80 % of its memory; again only after it was below 70 %."""
    shared = Shared()
    relays = Relays(MemoryBroker(), shared.store, shared.ledger, QUICK_RELAYS)
    for used in (70, 80, 99, 75, 85, 69, 80):
        relays.kept = Kept(used_bytes=used, memory_bytes=100)
        relays._watch_memory()
    relays.kept = Kept(used_bytes=10**9)
    relays._watch_memory()
    assert [r.__dict__["used_bytes"] for r in caplog.records if r.message == "redis_memory_high"] == [80, 80]
