"""common/publishing/run.py: announced before, confirmed after, and nothing lost where publishes fail."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest

from common.broker.memory import MemoryBroker
from common.errors import PublishFailed, Refused
from common.ledger.memory import MemoryLedger
from common.ledger.values import Snapshot
from common.messages import (
    LARGEST_MESSAGE_BYTES,
    MAX_BODY_BYTES,
    MAX_TEXT_CHARS,
    Batch,
    Lane,
    Message,
    decode_batch,
)
from common.publishing.random import RandomSource
from common.publishing.recipes import Recipe, Source
from common.publishing.run import LIMITS, Limits, Timing
from tests.publishing import publish
from tests.waiting import eventually

RUN = "a-run"


class LongTexts:
    """Messages of 1,600 characters, each of which JSON has to escape at six bytes."""

    def __init__(self, count: int) -> None:
        self.count = count

    def recipe(self, batch_size: int, lane: Lane) -> Recipe:
        return Recipe(source="long", count=self.count, batch_size=batch_size, lane=lane)

    def messages(self, first: int) -> Iterator[Message]:
        for seq in range(first, self.count):
            yield Message(seq, "+358401234567", "\x01" * MAX_TEXT_CHARS)


class WatchedLedger(MemoryLedger):
    """Notes how far a run was announced and confirmed."""

    def __init__(self) -> None:
        super().__init__()
        self.announced = 0
        self.confirmed = 0
        self.announcements = 0

    async def announce(self, run: str, first: int, count: int) -> None:
        await super().announce(run, first, count)
        self.announced = max(self.announced, first + count)
        self.announcements += 1

    async def confirm(self, run: str, upto: int) -> None:
        await super().confirm(run, upto)
        self.confirmed = max(self.confirmed, upto)


class FakeStrictBroker(MemoryBroker):
    """Takes only what was announced before."""

    def __init__(self, ledger: WatchedLedger) -> None:
        super().__init__()
        self._ledger = ledger

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        assert batch.messages[-1].seq < self._ledger.announced, "published before it was announced"
        return super().publish(batch, lane, after)


class FakeFlakyBroker(MemoryBroker):
    """Fails every third publish: half of those are lost, of the others only the confirm is."""

    def __init__(self) -> None:
        super().__init__()
        self.publishes = 0
        self.failures = 0

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        self.publishes += 1
        if self.publishes % 3:
            return super().publish(batch, lane, after)
        self.failures += 1
        if self.failures % 2:
            super().publish(batch, lane, after)
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        failed.set_exception(PublishFailed("the connection is gone"))
        return failed


def batches_in(broker: MemoryBroker, lane: Lane = Lane.BULK) -> list[Batch]:
    return [decode_batch(held.body)[0] for held in broker.queues[lane].bodies]


def messages_in(broker: MemoryBroker, lane: Lane = Lane.BULK) -> list[Message]:
    return [message for batch in batches_in(broker, lane) for message in batch.messages]


async def begun(ledger: MemoryLedger, source: Source) -> None:
    recipe = msgspec.json.encode(source.recipe(1, Lane.BULK)).decode()
    await ledger.begin(RUN, recipe, source.count, "a-producer")


async def progress(ledger: MemoryLedger) -> tuple[Snapshot, int]:
    """The run's counters, and how far it is confirmed."""
    return await ledger.snapshot(RUN), (await ledger.resume(RUN, "a-producer")).confirmed


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (100, 1), (100, 7), (100, 100), (100, 10_000)])
async def test_all_messages_are_published_in_order(count: int, batch_size: int) -> None:
    """The queue holds exactly the source's messages, in full batches but for the last, and the ledger knows."""
    broker, ledger, source = MemoryBroker(), MemoryLedger(), RandomSource(count, 1)
    await begun(ledger, source)
    await publish(broker, ledger, RUN, source, batch_size)
    assert messages_in(broker) == list(source.messages(0))
    assert all(len(batch.messages) == batch_size for batch in batches_in(broker)[:-1])
    assert {(batch.run, batch.attempt) for batch in batches_in(broker)} == {(RUN, 1)}
    snapshot, confirmed = await progress(ledger)
    assert (snapshot.published, snapshot.queued, confirmed) == (count, count, count)


async def test_the_lane_is_the_one_asked_for() -> None:
    """An urgent run goes to the urgent lane, and nothing of it to the other."""
    broker, ledger, source = MemoryBroker(), MemoryLedger(), RandomSource(10, 1)
    await begun(ledger, source)
    await publish(broker, ledger, RUN, source, 3, lane=Lane.URGENT)
    assert len(messages_in(broker, Lane.URGENT)) == 10
    assert messages_in(broker, Lane.BULK) == []


async def test_announced_in_blocks_before_it_is_published() -> None:
    """No message is in the queue that the ledger has not counted, and a block costs one call."""
    ledger = WatchedLedger()
    source = RandomSource(2 * LIMITS.announced_block + 5, 1)
    await begun(ledger, source)
    await publish(FakeStrictBroker(ledger), ledger, RUN, source, 700)
    assert ledger.announced == source.count
    assert ledger.announcements == 3


async def test_progress_counts_what_is_confirmed() -> None:
    """The progress bar never goes back, never beyond what the broker keeps, and ends full."""
    broker, ledger, source = MemoryBroker(), MemoryLedger(), RandomSource(40_000, 1)
    heard: list[tuple[int, int]] = []
    await begun(ledger, source)

    def hear(done: int) -> None:
        heard.append((done, 100 * len(broker.queues[Lane.BULK].bodies)))

    await publish(broker, ledger, RUN, source, 100, on_progress=hear)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert all(done <= kept for done, kept in heard)
    assert heard[-1][0] == 40_000


async def test_long_texts_are_split_to_fit_a_body() -> None:
    """A batch that would be over 1 MiB goes as several, none over the limit, with nothing left out."""
    broker, ledger, source = MemoryBroker(), MemoryLedger(), LongTexts(600)
    await begun(ledger, source)
    await publish(broker, ledger, RUN, source, 500)
    sizes = [len(held.body) for held in broker.queues[Lane.BULK].bodies]
    assert max(sizes) <= MAX_BODY_BYTES
    assert len(sizes) < 20, "far smaller batches than the limit asks for"
    assert [m.seq for m in messages_in(broker)] == list(range(600))
    snapshot, confirmed = await progress(ledger)
    assert (snapshot.published, confirmed) == (600, 600)


async def test_the_largest_batch_that_is_not_measured_fits() -> None:
    """Batches of so few messages aren't encoded to be measured: the worst of them fits."""
    worst = [
        Message(2**40 - 1 - k, "+" + "9" * 15, "\x01" * MAX_TEXT_CHARS)
        for k in range(MAX_BODY_BYTES // LARGEST_MESSAGE_BYTES)
    ]
    body = msgspec.json.encode(Batch(run="r" * 40, attempt=1_000_000, track=True, again=True, messages=worst))
    assert len(body) <= MAX_BODY_BYTES


async def test_failed_publishes_are_repeated() -> None:
    """Whatever fails is published again until it is confirmed: each message at least once, counted exactly once."""
    broker, ledger, source = FakeFlakyBroker(), MemoryLedger(), RandomSource(1_000, 1)
    await begun(ledger, source)
    await publish(broker, ledger, RUN, source, 10, timing=Timing(failure_pause_s=0))
    assert broker.failures > 30
    found = Counter(message.seq for message in messages_in(broker))
    assert found.keys() == set(range(1_000))
    assert max(found.values()) > 1, "the test should lose confirms too"
    snapshot, confirmed = await progress(ledger)
    assert (snapshot.published, snapshot.queued, confirmed) == (1_000, 1_000, 1_000)


async def test_only_confirmed_messages_are_noted_in_the_ledger() -> None:
    """While the broker withholds its confirms, the run is confirmed in the ledger up to the last one and no further."""
    timing, limits = Timing(confirm_every_s=-1), Limits(window_batches=3)
    broker, ledger, source = MemoryBroker(capacity=50), WatchedLedger(), RandomSource(1_000, 1)
    await begun(ledger, source)
    publishing = asyncio.create_task(publish(broker, ledger, RUN, source, 10, timing=timing, limits=limits))
    await eventually(lambda: ledger.confirmed > 0 and len(messages_in(broker)) == 50)
    publishing.cancel()
    await asyncio.wait([publishing])
    assert 0 < ledger.confirmed <= 50
    assert ledger.announced == 1_000


async def test_a_producer_that_was_stopped_is_resumed_without_a_gap() -> None:
    """Going on from what was confirmed, every message is in the queue at least once and counted once."""
    broker, ledger, source = MemoryBroker(capacity=300), MemoryLedger(), RandomSource(1_000, 1)
    await begun(ledger, source)
    publishing = asyncio.create_task(publish(broker, ledger, RUN, source, 10))
    await eventually(lambda: len(messages_in(broker)) == 300)
    publishing.cancel()
    await asyncio.wait([publishing])
    found = await ledger.resume(RUN, "a-producer")
    assert (found.announced, found.total) == (1_000, 1_000)

    roomy = MemoryBroker()
    await publish(roomy, ledger, RUN, source, 10, first=found.confirmed)
    seqs = {m.seq for m in messages_in(broker)} | {m.seq for m in messages_in(roomy)}
    assert seqs == set(range(1_000))
    snapshot, confirmed = await progress(ledger)
    assert (snapshot.published, confirmed) == (1_000, 1_000)


async def test_resuming_what_was_wholly_published_publishes_nothing() -> None:
    """A run that lacks nothing is done at once."""
    broker, ledger, source = MemoryBroker(), MemoryLedger(), RandomSource(100, 1)
    await begun(ledger, source)
    await publish(broker, ledger, RUN, source, 10)
    before = messages_in(broker)
    await publish(broker, ledger, RUN, source, 10, first=100)
    assert messages_in(broker) == before
    snapshot, confirmed = await progress(ledger)
    assert (snapshot.published, confirmed) == (100, 100)


async def test_other_errors_end_the_publication() -> None:
    """What is no failed publish is not tried again in silence."""

    class FakeBrokenBroker(MemoryBroker):
        def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
            raise ValueError("a bug")

    ledger, source = MemoryLedger(), RandomSource(10, 1)
    await begun(ledger, source)
    with pytest.raises(ValueError, match="a bug"):
        await publish(FakeBrokenBroker(), ledger, RUN, source, 1)


async def test_a_batch_over_the_brokers_size_limit_ends_the_run_with_a_remedy() -> None:
    """It is not tried again for ever. The run can go on in smaller batches."""
    broker, ledger, source = MemoryBroker(most_bytes=1000), MemoryLedger(), RandomSource(100, seed=1)
    await begun(ledger, source)
    with pytest.raises(
        Refused, match=r"over 1000: .*--resume \S+ --batch-size B, where about \d+ messages fit"
    ):
        await publish(broker, ledger, RUN, source, 50)
