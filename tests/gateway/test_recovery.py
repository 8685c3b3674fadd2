"""What a dead gateway left is finished: wholly, by one who waited long enough, and again if that one dies too."""

import asyncio
import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.errors import PublishFailed, RunBusy
from common.ledger.memory import MemoryLedger
from common.ledger.values import Publication
from common.messages import Batch, Lane, Message, decode_batch
from common.publishing.recipes import BATCHES, SINGLES
from common.tracking.memory import MemoryTracker
from common.tracking.port import Record, Track
from gateway.acceptance import recovery
from gateway.acceptance.recovery import Recovery
from gateway.acceptance.session import recipe
from tests.waiting import eventually

RUN = "a-run"


class World:
    """What a gateway that died leaves behind."""

    def __init__(
        self,
        ledger: MemoryLedger | None = None,
        broker: MemoryBroker | None = None,
        tracker: MemoryTracker | None = None,
    ) -> None:
        self.ledger = ledger or MemoryLedger()
        self.broker = broker or MemoryBroker()
        self.tracker = tracker or MemoryTracker()

    def recovery(self, name: str = "another", queue: str | None = None) -> Recovery:
        return Recovery(self.broker, self.ledger, self.tracker, name, queue)

    async def batch(self, total: int, announced: int, known: range, queue: str | None = None) -> None:
        """A batch that broke off."""
        await self.tracker.keep(RUN, [Message(seq, "+541166587382", "text") for seq in known])
        await self.ledger.begin(RUN, recipe(BATCHES, total, queue=queue), total, "dead")
        await self.ledger.announce(RUN, 0, announced)
        await self.ledger.leave(RUN, "dead")

    async def session(self, lanes: list[Lane]) -> None:
        """Single messages that were announced, and no more."""
        await self.ledger.begin(RUN, recipe(SINGLES, 0), 0, "dead")
        await self.ledger.announce(RUN, 0, len(lanes))
        await self.tracker.open(
            [
                Record(run=RUN, message=Message(seq, "+541166587382", "text"), accepted_us=1, lane=lane)
                for seq, lane in enumerate(lanes)
            ]
        )
        await self.ledger.leave(RUN, "dead")


class Recorded(MemoryBroker):
    """Notes what it is given. `holds` is the lane that it confirms nothing of; `fails` is how often it fails first."""

    def __init__(self, holds: Lane | None = None, fails: int = 0) -> None:
        super().__init__()
        self.given: list[tuple[Lane, int]] = []
        self.holds, self.fails = holds, fails

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.fails:
            self.fails -= 1
            lost.set_exception(PublishFailed("the connection is lost"))
            return lost
        self.given += [(lane, message.seq) for message in batch.messages]
        return lost if lane is self.holds else super().publish(batch, lane, after)

    def seqs(self) -> list[int]:
        return sorted(seq for _, seq in self.given)


async def test_what_comes_after_forgotten_texts_is_published_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgotten messages fail, the others that were announced are sent; the rest of the batch is left out."""
    monkeypatch.setattr(recovery, "PIECE", 10)
    broker = Recorded()
    world = World(broker=broker)
    await world.batch(total=50, announced=35, known=range(8, 50))

    await world.recovery().finish(RUN)

    assert broker.seqs() == list(range(8, 35))
    snapshot = await world.ledger.snapshot(RUN)
    assert (snapshot.published, snapshot.failed, snapshot.queued, snapshot.total) == (35, 8, 27, 35)


async def test_a_batch_goes_on_beyond_what_was_announced_while_it_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pieces that are whole are announced and sent; the first that is not ends the run."""
    monkeypatch.setattr(recovery, "PIECE", 10)
    broker = Recorded()
    world = World(broker=broker)
    await world.batch(total=50, announced=5, known=range(35))

    await world.recovery().finish(RUN)

    assert broker.seqs() == list(range(30))
    snapshot = await world.ledger.snapshot(RUN)
    assert (snapshot.published, snapshot.failed, snapshot.total) == (30, 0, 30)


async def test_a_lane_that_is_not_safe_yet_is_published_by_the_next_one() -> None:
    """It dies when one lane is confirmed and the other is not: nothing counts as confirmed, so nothing is lost."""
    broker = Recorded(holds=Lane.URGENT)
    world = World(broker=broker)
    await world.session([Lane.URGENT, Lane.BULK, Lane.URGENT, Lane.BULK])

    first = asyncio.create_task(world.recovery("first").finish(RUN))
    await eventually(lambda: len(broker.given) == 4)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert (await world.ledger.publication(RUN)).confirmed == 0
    broker.given, broker.holds = [], None
    await world.recovery("second").finish(RUN)

    assert broker.seqs() == [0, 1, 2, 3]
    assert {seq for lane, seq in broker.given if lane is Lane.URGENT} == {0, 2}


async def test_a_publish_that_fails_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the broker did not confirm is published again, and only that."""
    monkeypatch.setattr(recovery, "PAUSE_S", 0)
    broker = Recorded(fails=3)
    world = World(broker=broker)
    await world.session([Lane.URGENT, Lane.BULK])

    await world.recovery().finish(RUN)

    assert broker.seqs() == [0, 1]
    assert (await world.ledger.publication(RUN)).confirmed == 2


class Looked(MemoryLedger):
    """Counts the looks at runs. At the first ones of these their producers seem dead; `slow_s` is what each takes."""

    def __init__(self, dead_at_first: int, slow_s: float = 0) -> None:
        super().__init__()
        self.looks, self._dead_at_first, self._slow_s = 0, dead_at_first, slow_s

    async def publication(self, run: str) -> Publication:
        self.looks += 1
        await asyncio.sleep(self._slow_s)
        found = await super().publication(run)
        return dataclasses.replace(found, publishing=self.looks > self._dead_at_first)

    async def total(self) -> int:
        """0 while the run is open."""
        return (await self.snapshot(RUN)).total


@pytest.mark.parametrize(
    ("ledger", "taken"),
    [(Looked(1), False), (Looked(1000), True), (Looked(1000, slow_s=0.05), False)],
    ids=["heard of again", "silent", "silent while Redis comes and goes"],
)
async def test_only_who_is_silent_while_redis_answers_is_dead(
    ledger: Looked, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage of Redis a living gateway seems dead at the first look: its run stays its own."""
    monkeypatch.setattr(recovery, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(recovery, "PROMPT_S", 0.02 if ledger._slow_s else 1.0)
    world = World(ledger=ledger)
    await world.session([Lane.BULK])  # as far as the ledger itself goes, it may be resumed at once

    working = asyncio.create_task(world.recovery().run())
    if taken:
        await eventually(ledger.total)
    await eventually(lambda: ledger.looks > recovery.SILENT_LOOKS)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)

    assert bool(await ledger.total()) is taken


async def test_runs_of_another_queue_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two QUEUE_NAMEs on one Redis: whose senders would send it, that gateway finishes it, and says so to who asks."""
    monkeypatch.setattr(recovery, "LOOK_EVERY_S", 0.01)
    ledger, broker = Looked(1000), Recorded()
    world = World(ledger=ledger, broker=broker)
    await world.batch(total=10, announced=5, known=range(10), queue="theirs")
    with pytest.raises(RunBusy, match="theirs"):
        await world.recovery(queue="ours").finish(RUN)
    ledger.looks = 0
    ours = asyncio.create_task(world.recovery(queue="ours").run())
    await eventually(lambda: ledger.looks)
    theirs = asyncio.create_task(world.recovery(queue="theirs").run())
    await eventually(lambda: broker.seqs() == list(range(10)))
    for working in (ours, theirs):
        working.cancel()
    await asyncio.gather(ours, theirs, return_exceptions=True)

    assert ledger.looks == 1 + recovery.SILENT_LOOKS + 1  # the last one is that of who finishes it


async def test_what_is_over_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that starts again asks of the runs that are open, not of a week's batches."""
    monkeypatch.setattr(recovery, "LOOK_EVERY_S", 0.01)
    ledger = Looked(1000)
    world = World(ledger=ledger)
    for number in range(100):
        await ledger.begin(f"over-{number}", recipe(BATCHES, 1), 1, "dead")
        await ledger.withdraw(f"over-{number}", np.arange(1))
    await world.batch(total=10, announced=5, known=range(10))
    working = asyncio.create_task(world.recovery().run())
    await eventually(lambda: ledger.looks >= recovery.SILENT_LOOKS)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert ledger.looks <= recovery.SILENT_LOOKS + 1


class AskedTracker(MemoryTracker):
    """Counts the calls for records."""

    asked = 0

    async def records(self, run: str, seqs: Sequence[int]) -> list[Record | None]:
        self.asked += 1
        return await super().records(run, seqs)

    async def track(self, run: str, seq: int) -> Track | None:
        raise AssertionError("one call a message")


@pytest.mark.parametrize("tracked", [True, False])
async def test_records_are_read_a_piece_at_a_time(tracked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of many messages takes a few calls of the tracker, tracked or not."""
    monkeypatch.setattr(recovery, "PIECE", 10)
    tracker = AskedTracker()
    world = World(tracker=tracker)
    if tracked:
        await world.session([Lane.BULK] * 30)
    else:
        await world.batch(total=30, announced=30, known=range(30))
    await world.recovery().finish(RUN)
    assert tracker.asked == 3
    bodies = [decode_batch(held.body)[0] for held in world.broker.queues[Lane.BULK].bodies]
    assert [(batch.track, len(batch.messages)) for batch in bodies] == [(tracked, 10)] * 3
