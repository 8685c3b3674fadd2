"""A sender publishes the steps of tracked messages, and no steps of others."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.ledger.values import Claim, Outcomes
from common.messages import Batch, Lane, Message, Outcome, Seqs
from common.tracking.memory import MemoryTracker
from common.tracking.port import Record, Status, Step
from sender.copies import RetryPolicy
from sender.providers.bulk import Sends
from sender.service import Sender
from sender.slots import Slots
from sender.timing import Timing
from sender.unacked import Unacked
from tests.kept import keep_records
from tests.waiting import eventually

RUN = "tracked-sends"
PROMPT = Timing(merge_s=0)
QUEUED, SENDING, SENT, FAILED, _ = Status


class Planned:
    """A provider that ends each send at once, as planned for (seq, attempt), or with SENT, last message first."""

    def __init__(
        self, plan: dict[tuple[int, int], Outcome] | None = None, reads_messages: bool = False
    ) -> None:
        self.reads_messages = reads_messages
        self._plan = plan or {}

    def start(self, sends: Sends) -> None:
        sends.reorder(np.argsort(-sends.seqs))
        for k, seq in enumerate(sends.seqs.tolist()):
            sends.outcomes[k] = self._plan.get((seq, sends.attempt), Outcome.SENT)
            sends.times_us[k] = took_us(seq)
        sends.finish(0, sends.seqs.size)

    async def close(self) -> None:
        return


def took_us(seq: int) -> int:
    return 1_000 + seq


class NotingTracker(MemoryTracker):
    """A tracker that notes all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Step] = []

    def publish(self, steps: Sequence[Step]) -> None:
        self.told += steps
        super().publish(steps)

    def of(self, seq: int) -> list[tuple[Status, int, int | None]]:
        return [(step.status, step.attempt, step.time_us) for step in self.told if step.seq == seq]


class GatedLedger:
    """A ledger of which one call waits until the test lets it go on."""

    def __init__(self, ledger: Ledger, call: str) -> None:
        self._ledger, self._call = ledger, call
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def _wait(self, call: str) -> None:
        if call == self._call:
            self.reached.set()
            await self.go_on.wait()

    async def claim(self, run: str, seqs: Seqs, redelivered: bool) -> Claim:
        await self._wait("claim")
        return await self._ledger.claim(run, seqs, redelivered)

    async def settle(self, run: str, outcomes: Outcomes, sender: str = "", again: bool = False) -> None:
        await self._wait("settle")
        await self._ledger.settle(run, outcomes, sender, again)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


class Pipeline:
    def __init__(self) -> None:
        self.broker, self.ledger, self.tracker = MemoryBroker(), MemoryLedger(), NotingTracker()
        self.stop = asyncio.Event()

    async def publish(self, *seqs: int, track: bool = True, bad: int | None = None) -> None:
        messages = [Message(seq, "no number" if seq == bad else number(seq), f"text {seq}") for seq in seqs]
        await self.broker.publish(Batch(run=RUN, track=track, messages=messages), Lane.BULK)

    @asynccontextmanager
    async def sender(
        self, provider: Planned, ledger: Ledger | None = None, **more: Any
    ) -> AsyncIterator[Sender]:
        """A running sender; leaving the block stops it gracefully."""
        sender = Sender(
            "s", self.broker, ledger or self.ledger, provider, slots=50, tracker=self.tracker, **more
        )
        running = asyncio.create_task(sender.run(self.stop))
        yield sender
        self.stop.set()
        await running

    async def settled(self, count: int) -> None:
        async def enough() -> bool:
            return (await self.ledger.snapshot()).settled == count

        await eventually(enough)


def number(seq: int) -> str:
    return f"+999123456{seq:03}"


async def test_each_step_of_a_send_is_told_with_number_text_and_time() -> None:
    """First that it began, then what came of it, by the clock and with the time that the send itself took."""
    pipeline = Pipeline()
    await keep_records(
        pipeline.tracker, [Record(run=RUN, message=Message(4, number(4), "text 4"), accepted_us=1)]
    )
    async with pipeline.sender(Planned({(5, 1): Outcome.FAILED})):
        await pipeline.publish(4, 5)
        await pipeline.settled(2)
    assert pipeline.tracker.of(4) == [(SENDING, 1, None), (SENT, 1, took_us(4))]
    assert pipeline.tracker.of(5) == [(SENDING, 1, None), (FAILED, 1, took_us(5))]
    assert {(step.run, step.seq, step.number, step.text) for step in pipeline.tracker.told} == {
        (RUN, seq, number(seq), f"text {seq}") for seq in (4, 5)
    }
    times = [step.at_us for step in pipeline.tracker.told]
    assert times == sorted(times)
    assert times[0] > 1_700_000_000_000_000
    track = await pipeline.tracker.track(RUN, 4)
    assert track is not None
    assert [step.status for step in track.steps] == [QUEUED, SENDING, SENT]


async def test_a_provider_that_reads_messages_changes_nothing() -> None:
    """It has the same messages, and may put them into another order."""
    pipeline = Pipeline()
    async with pipeline.sender(Planned(reads_messages=True)):
        await pipeline.publish(*range(3))
        await pipeline.publish(*range(3, 6))
        await pipeline.settled(6)
    assert [step.number for step in pipeline.tracker.told if step.status is SENT] == [
        number(step.seq) for step in pipeline.tracker.told if step.status is SENT
    ]
    assert all(pipeline.tracker.of(seq) == [(SENDING, 1, None), (SENT, 1, took_us(seq))] for seq in range(6))


async def test_a_retry_is_told_as_queued_and_the_last_one_as_failed() -> None:
    """Queued comes with the attempt that failed; the next attempt begins anew."""
    pipeline = Pipeline()
    plan = {(0, 1): Outcome.RETRY, **{(1, attempt): Outcome.RETRY for attempt in (1, 2, 3)}}
    async with pipeline.sender(Planned(plan), policy=RetryPolicy(3, backoff_s=0.001), timing=PROMPT):
        await pipeline.publish(0, 1)
        await pipeline.settled(2)
    assert pipeline.tracker.of(0) == [
        *((SENDING, 1, None), (QUEUED, 1, 1_000), (SENDING, 2, None), (SENT, 2, 1_000))
    ]
    assert pipeline.tracker.of(1) == [
        *((SENDING, 1, None), (QUEUED, 1, 1_001), (SENDING, 2, None), (QUEUED, 2, 1_001)),
        *((SENDING, 3, None), (FAILED, 3, 1_001)),
    ]


async def test_a_number_that_is_none_is_told_as_failed_without_a_send() -> None:
    """The rest of its batch goes on."""
    pipeline = Pipeline()
    async with pipeline.sender(Planned()):
        await pipeline.publish(0, 1, 2, bad=1)
        await pipeline.settled(3)
    assert pipeline.tracker.of(1) == [(FAILED, 1, None)]
    assert pipeline.tracker.of(2) == [(SENDING, 1, None), (SENT, 1, took_us(2))]


async def test_untracked_messages_tell_nothing() -> None:
    """Beside tracked ones of the same run, and retried ones; their texts are not kept in memory either."""
    pipeline = Pipeline()
    plan = {(2, 1): Outcome.RETRY, (5, 1): Outcome.RETRY}
    await pipeline.publish(0, 1, 2, 3, track=False, bad=3)
    await pipeline.publish(4, 5)
    await pipeline.publish(6, 7, track=False)
    async with pipeline.sender(Planned(plan), policy=RetryPolicy(2, backoff_s=0.001), timing=PROMPT):
        await pipeline.settled(8)
    assert {step.seq for step in pipeline.tracker.told} == {4, 5}
    assert pipeline.tracker.of(5)[-1] == (SENT, 2, took_us(5))


async def test_only_tracked_batches_keep_their_messages_in_hand() -> None:
    """And these only where somebody is to be told of them."""
    broker = MemoryBroker()
    subscription = await broker.subscribe(Lane.BULK, 10)
    for track in (False, True):
        await broker.publish(Batch(run=RUN, track=track, messages=[Message(0, number(0), "t")]), Lane.BULK)
    untracked, tracked = await subscription.take()
    kept = [
        sorted(Unacked(Lane.BULK, Slots(1), keep_tracked=keep).add(one).messages)
        for keep in (True, False)
        for one in (untracked, tracked)
    ]
    assert kept == [[], [0], [], []]


async def test_a_failure_that_is_kept_is_told_once() -> None:
    """It is settled after the rest of its batch, and told then."""
    pipeline = Pipeline()
    async with pipeline.sender(Planned({(1, 1): Outcome.FAILED}), policy=RetryPolicy(keep_failed=True)):
        await pipeline.publish(0, 1, 2)
        await pipeline.settled(3)
    assert pipeline.tracker.of(1) == [(SENDING, 1, None), (FAILED, 1, took_us(1))]
    assert pipeline.tracker.of(0) == [(SENDING, 1, None), (SENT, 1, took_us(0))]


async def test_what_came_of_a_send_is_told_only_once_it_is_settled() -> None:
    """A reader of the step who asks the ledger finds the same."""
    pipeline = Pipeline()
    ledger = GatedLedger(pipeline.ledger, "settle")
    async with pipeline.sender(Planned(), ledger):
        await pipeline.publish(0)
        await ledger.reached.wait()
        assert pipeline.tracker.of(0) == [(SENDING, 1, None)]
        ledger.go_on.set()
        await pipeline.settled(1)
        await eventually(lambda: pipeline.tracker.of(0)[1:] == [(SENT, 1, took_us(0))])


async def test_a_claim_that_is_given_back_at_the_end_tells_nothing() -> None:
    """The sender stops while it claims: nothing began."""
    pipeline = Pipeline()
    ledger = GatedLedger(pipeline.ledger, "claim")
    async with pipeline.sender(Planned(), ledger) as sender:
        await pipeline.publish(0)
        await ledger.reached.wait()
        pipeline.stop.set()
        await eventually(lambda: all(lane.stopping for lane in sender.lanes))
        ledger.go_on.set()
    assert (await pipeline.ledger.snapshot()).settled == 0
    assert pipeline.tracker.told == []


async def test_a_message_that_was_settled_before_is_told_no_more() -> None:
    """A second copy of it is dropped."""
    pipeline = Pipeline()
    async with pipeline.sender(Planned()):
        await pipeline.publish(0)
        await pipeline.settled(1)
        await pipeline.publish(0, 1)
        await pipeline.settled(2)
    assert pipeline.tracker.of(0) == [(SENDING, 1, None), (SENT, 1, took_us(0))]
