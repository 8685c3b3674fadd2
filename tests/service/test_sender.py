"""A sender on the memory broker and the memory ledger: it takes, sends, settles and hands back."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.ledger.values import Snapshot
from common.messages import MAX_BODY_BYTES, Batch, Lane, Message, Outcome, State, decode_batch
from common.rate.memory import MemoryRateLimit
from common.rate.port import Grant, bucket_of
from common.settings import Distribution
from sender.copies import RetryPolicy
from sender.providers.bulk import Sends
from sender.providers.profiles import Profile
from sender.providers.simulated import SimulatedProvider
from sender.service import Sender
from sender.timing import Limits, Timing
from tests.waiting import eventually

RUN = "service"


class Gate:
    """A provider whose sends end when the test ends them."""

    reads_messages = False

    def __init__(self, took_us: int = 0) -> None:
        self.begun: list[Sends] = []
        self._took_us = took_us

    def start(self, sends: Sends) -> None:
        sends.outcomes[:] = Outcome.SENT
        sends.times_us[:] = self._took_us
        self.begun.append(sends)

    def end_all(self) -> None:
        begun, self.begun = self.begun, []
        for sends in begun:
            sends.finish(0, sends.seqs.size)

    @property
    def in_flight(self) -> list[int]:
        return sorted(seq for sends in self.begun for seq in sends.seqs.tolist())

    async def close(self) -> None:
        self.begun.clear()


class NotingBroker(MemoryBroker):
    """Notes each publish: the batch and its delay."""

    def __init__(self, capacity: int = 1_000_000) -> None:
        super().__init__(capacity=capacity)
        self.published: list[tuple[Batch, float]] = []

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        self.published.append((batch, after))
        return super().publish(batch, lane, after)


class Pipeline:
    def __init__(self) -> None:
        self.broker = NotingBroker()
        self.ledger = MemoryLedger()

    async def publish(self, first: int, size: int, lane: Lane = Lane.BULK, to: str = "+999123456789") -> None:
        await self.ledger.announce(RUN, first, size)
        messages = [Message(seq, to, "text") for seq in range(first, first + size)]
        await self.broker.publish(Batch(run=RUN, messages=messages), lane)

    async def publish_many(self, count: int, size: int) -> None:
        for first in range(0, count, size):
            await self.publish(first, size)

    async def snapshot(self) -> Snapshot:
        return await self.ledger.snapshot(RUN)

    async def settled(self, count: int) -> Snapshot:
        async def enough() -> Snapshot | None:
            now = await self.snapshot()
            return now if now.settled == count else None

        found: Snapshot = await eventually(enough)
        return found

    @asynccontextmanager
    async def sender(
        self, provider: Gate | SimulatedProvider, slots: int, grace_s: float = 5, **more: Any
    ) -> AsyncIterator[Sender]:
        """A running sender; leaving the block stops it gracefully."""
        stop = asyncio.Event()
        sender = Sender("s", self.broker, self.ledger, provider, slots=slots, grace_s=grace_s, **more)
        running = asyncio.create_task(sender.run(stop))
        yield sender
        stop.set()
        await running


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


def at_once(failure_rate: float = 0) -> SimulatedProvider:
    return SimulatedProvider(Profile(mean_s=0, retry=failure_rate))


async def test_what_comes_soon_after_a_claim_is_gathered_for_the_next(pipeline: Pipeline) -> None:
    """Where a send takes long, a claim waits for a share of that, and then takes all that has come."""
    gate = Gate(took_us=1_000_000)
    timing = Timing(gathering_share=1, longest_gathering_s=0.5)
    async with pipeline.sender(gate, 100, timing=timing) as sender:
        await pipeline.publish(0, 1)
        await eventually(lambda: gate.in_flight == [0])
        gate.end_all()
        await pipeline.settled(1)
        # The mean time of the sends is known from the next claim on.
        await pipeline.publish(1, 1)
        await eventually(lambda: gate.in_flight == [1])
        for seq in range(2, 7):
            await pipeline.publish(seq, 1)
        await eventually(lambda: sender.slots.waiting(Lane.BULK) == 5)
        assert gate.in_flight == [1]
        await eventually(lambda: gate.in_flight == [1, 2, 3, 4, 5, 6])
        assert [sends.seqs.size for sends in gate.begun] == [1, 5]
        gate.end_all()


@pytest.mark.parametrize(("slots", "size"), [(10, 1), (100, 10), (7, 20)])
async def test_it_holds_no_more_than_its_slots_and_one_batch(
    pipeline: Pipeline, slots: int, size: int
) -> None:
    """The rest stays in the queue, for others: scaling out helps at once."""
    await pipeline.publish_many(400, size)
    gate, ended = Gate(), 0
    async with pipeline.sender(gate, slots, grace_s=0):
        await eventually(lambda: len(gate.in_flight) == slots)
        for _ in range(3):
            gate.end_all()
            ended += slots
            await pipeline.settled(ended)
            await eventually(lambda: len(gate.in_flight) == slots)
            in_queue = (await pipeline.broker.depths())["sms_queue"] * size
            # Where a batch is larger than the slots: the rest of one, and the next one.
            assert 400 - in_queue - ended <= max(2 * slots + size, slots + 2 * size)


async def test_only_what_a_free_slot_takes_is_claimed(pipeline: Pipeline) -> None:
    """A large batch is claimed piece by piece, so a crash leaves few messages ambiguous."""
    await pipeline.publish(0, 1000)
    gate = Gate()
    async with pipeline.sender(gate, 10, grace_s=0):
        await eventually(lambda: len(gate.in_flight) == 10)
        assert (await pipeline.snapshot()).sending == 10


async def test_a_graceful_stop_finishes_what_is_in_flight_and_hands_back_the_rest(pipeline: Pipeline) -> None:
    """Nothing is sending and nothing ambiguous afterwards; another sender goes on with the rest."""
    await pipeline.publish_many(30, 3)
    gate = Gate()
    async with pipeline.sender(gate, 10, grace_s=60) as sender:

        async def ten_are_sending() -> bool:
            return len(gate.in_flight) == (await pipeline.snapshot()).sending == 10

        async def end_what_is_in_flight() -> None:
            await eventually(lambda: sender.lanes[0].stopping)
            gate.end_all()

        await eventually(ten_are_sending)
        ending = asyncio.create_task(end_what_is_in_flight())
    await ending
    now = await pipeline.snapshot()
    assert (now.sending, now.sent, now.queued) == (0, 10, 20)
    async with pipeline.sender(at_once(), 10):
        now = await pipeline.settled(30)
    assert (now.sent, now.ambiguous) == (30, 0)
    assert not any((await pipeline.broker.depths()).values())


async def test_what_outlasts_the_grace_is_sent_again_as_ambiguous(pipeline: Pipeline) -> None:
    """A send that was cut off is not counted, and its message not lost."""
    await pipeline.publish(0, 5)
    gate = Gate()
    async with pipeline.sender(gate, 10, grace_s=0.05):
        await eventually(lambda: len(gate.in_flight) == 5)
    async with pipeline.sender(at_once(), 10):
        now = await pipeline.settled(5)
    assert (now.sent, now.ambiguous) == (5, 5)


async def test_a_lost_connection_drops_what_was_not_begun_and_settles_what_was(pipeline: Pipeline) -> None:
    """Redelivered messages are skipped if they are settled, so nothing is counted twice."""
    await pipeline.publish_many(20, 5)
    gate = Gate()
    async with pipeline.sender(gate, 8):
        await eventually(lambda: len(gate.in_flight) == 8)
        pipeline.broker.disconnect()

        async def all_settled() -> bool:
            gate.end_all()
            return (await pipeline.snapshot()).settled == 20

        await eventually(all_settled)
    now = await pipeline.snapshot()
    assert (now.published, now.sent, now.sending) == (20, 20, 0)
    assert await pipeline.ledger.recount(RUN) == {"published": 20, "sending": 0, "sent": 20, "failed": 0}


async def test_a_bad_number_fails_alone(pipeline: Pipeline) -> None:
    """A message whose number is not E.164 is settled as failed without a send; the rest of the batch go on."""
    await pipeline.ledger.announce(RUN, 0, 3)
    numbers = ["+999123456789", "12345", "+999123456780"]
    messages = [Message(seq, to, "text") for seq, to in enumerate(numbers)]
    await pipeline.broker.publish(Batch(run=RUN, messages=messages), Lane.BULK)
    gate = Gate()
    async with pipeline.sender(gate, 10):
        await eventually(lambda: gate.in_flight == [0, 2])
        gate.end_all()
        now = await pipeline.settled(3)
    assert (now.sent, now.failed) == (2, 1)


async def test_a_body_that_is_no_batch_is_rejected_and_the_sender_goes_on(pipeline: Pipeline) -> None:
    """It stands in the rejected queue with its reason, is counted, and never comes again."""
    pipeline.broker.publish_raw(b"{", Lane.BULK)
    await pipeline.publish(0, 2)
    async with pipeline.sender(at_once(), 10):
        await pipeline.settled(2)
        await eventually(lambda: len(pipeline.broker.rejected) == 1)
    (body, reason) = pipeline.broker.rejected[0]
    assert body == b"{"
    assert reason
    assert (await pipeline.ledger.snapshot()).rejected == 1


async def test_a_copy_of_a_batch_is_dropped(pipeline: Pipeline) -> None:
    """Published twice, sent once: while the first copy is unacked, and after it is settled."""
    gate = Gate()
    await pipeline.publish(0, 3)
    async with pipeline.sender(gate, 10):
        await eventually(lambda: gate.in_flight == [0, 1, 2])
        await pipeline.publish(0, 3)
        await eventually(lambda: not pipeline.broker.queues[Lane.BULK].bodies)
        gate.end_all()
        await pipeline.settled(3)
        await pipeline.publish(0, 3)
        await pipeline.publish(3, 1)
        await eventually(lambda: gate.in_flight == [3])
        gate.end_all()
        now = await pipeline.settled(4)
    assert (now.published, now.sent, now.ambiguous) == (4, 4, 0)


async def test_two_copies_in_one_breath_are_sent_once(pipeline: Pipeline) -> None:
    """Copies that are claimed in the same group don't hide one another."""
    for _ in range(3):
        await pipeline.publish(0, 2)
    gate = Gate()
    async with pipeline.sender(gate, 10):
        await eventually(lambda: gate.in_flight == [0, 1])
        await eventually(lambda: not pipeline.broker.queues[Lane.BULK].bodies)
        assert gate.in_flight == [0, 1]
        gate.end_all()
        await pipeline.settled(2)


async def test_an_urgent_message_does_not_wait_for_bulk_ones(pipeline: Pipeline) -> None:
    """With every bulk slot taken, an urgent message begins at once, in a slot that is reserved for it."""
    await pipeline.publish_many(100, 1)
    gate = Gate()
    async with pipeline.sender(gate, 5, grace_s=0):
        await eventually(lambda: len(gate.in_flight) == 5)
        await pipeline.publish(100, 1, Lane.URGENT)
        await eventually(lambda: 100 in gate.in_flight)


async def test_what_would_take_too_long_is_published_again_in_smaller_batches(pipeline: Pipeline) -> None:
    """A batch that could not be finished in time is split and acked, long before the consumer timeout."""
    await pipeline.publish(0, 200)
    pipeline.broker.published.clear()
    provider = SimulatedProvider(Profile(mean_s=0.05, distribution=Distribution.CONSTANT))
    async with pipeline.sender(provider, 2, timing=Timing(overdue_s=1.0)):
        await eventually(lambda: len(pipeline.broker.published) > 10)
    assert max(len(batch.messages) for batch, _ in pipeline.broker.published) < 20
    async with pipeline.sender(at_once(), 50):
        now = await pipeline.settled(200)
    assert (now.published, now.sent, now.ambiguous) == (200, 200, 0)


async def test_a_busy_sender_keeps_its_slots_filled(pipeline: Pipeline) -> None:
    """Batches whose last messages take long don't leave slots idle: prefetch follows."""
    await pipeline.publish_many(40_000, 100)
    gate = Gate()
    async with pipeline.sender(gate, 1000, grace_s=0) as sender:
        await eventually(lambda: len(gate.in_flight) == 1000)

        def refill() -> bool:
            # All but the last message of each group end: the batches stay unacked.
            for sends in gate.begun[:]:
                if sends.seqs.size > 1:
                    sends.finish(0, sends.seqs.size - 1)
                    sends.seqs, sends.owners = sends.seqs[-1:], sends.owners[-1:]
                    sends.outcomes, sends.times_us = sends.outcomes[-1:], np.zeros(1, np.int64)
            return False

        refill()

        await eventually(lambda: sender.lanes[0].in_flight == 1000)


class HeldUpLedger:
    """A ledger whose claims arrive when the test lets them through."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.asked, self.let_through = asyncio.Event(), asyncio.Event()

    async def claim(self, run: str, seqs: Any, redelivered: bool) -> Any:
        self.asked.set()
        await self.let_through.wait()
        return await self._ledger.claim(run, seqs, redelivered)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


async def test_a_claim_that_comes_late_loses_no_message(pipeline: Pipeline) -> None:
    """Its holder lost the connection, and another has settled the message as a retry: neither copy may vanish."""
    held_up: Any = HeldUpLedger(pipeline.ledger)
    late = Sender(
        "late", pipeline.broker, held_up, at_once(), slots=10, policy=RetryPolicy(max_attempts=3), grace_s=1
    )
    other = Sender(
        "other",
        pipeline.broker,
        pipeline.ledger,
        at_once(1.0),
        slots=10,
        policy=RetryPolicy(max_attempts=2, backoff_s=0.1),
        grace_s=1,
    )
    stop = asyncio.Event()
    late_runs = asyncio.create_task(late.run(stop))
    await pipeline.publish(0, 1)
    await held_up.asked.wait()
    (subscription,) = [s for s in pipeline.broker.subscriptions if s.source is Lane.BULK]
    await subscription.close()
    subscription.disconnect()
    other_runs = asyncio.create_task(other.run(stop))

    async def retried() -> bool:
        return (await pipeline.snapshot()).retried == 1

    await eventually(retried)
    held_up.let_through.set()
    now = await pipeline.settled(1)
    assert (now.published, now.sending, now.queued) == (1, 0, 0)
    stop.set()
    await asyncio.gather(late_runs, other_runs)


async def test_splitting_goes_on_while_the_producer_waits_for_room(pipeline: Pipeline) -> None:
    """A full broker takes in the copies of what it delivered before: else sender and producer wait for each other."""
    pipeline.broker = NotingBroker(capacity=120)
    await pipeline.ledger.announce(RUN, 0, 500)
    publishing = asyncio.gather(*(pipeline.publish(first, 50) for first in range(0, 500, 50)))
    provider = SimulatedProvider(Profile(mean_s=0.02, distribution=Distribution.CONSTANT))
    async with pipeline.sender(provider, 2, timing=Timing(overdue_s=0.2)):
        now = await pipeline.settled(500)
    await publishing
    assert (now.published, now.sent) == (500, 500)


async def test_a_batch_of_a_dead_sender_can_be_split(pipeline: Pipeline) -> None:
    """The smaller batches are new to the broker, yet messages that the dead sender had claimed are not duplicates."""
    await pipeline.publish(0, 20)
    dead = await pipeline.broker.subscribe(Lane.BULK, 1)
    await dead.take()
    await pipeline.ledger.claim(RUN, np.arange(12), redelivered=False)
    await dead.close()
    pipeline.broker.disconnect()
    provider = SimulatedProvider(Profile(mean_s=0.2, distribution=Distribution.CONSTANT))
    async with pipeline.sender(provider, 2, timing=Timing(overdue_s=1.0)):
        now = await pipeline.settled(20)
    assert (now.sent, now.sending, now.ambiguous) == (20, 0, 12)


async def test_retries_that_wait_hold_nothing_up(pipeline: Pipeline) -> None:
    """They wait in their own queues, in no slot and in no prefetch, and at many different times: no storm."""
    await pipeline.publish_many(200, 1)
    pipeline.broker.published.clear()
    policy = RetryPolicy(max_attempts=2, backoff_s=300.0)
    async with pipeline.sender(at_once(1.0), 10, policy=policy) as sender:

        def all_wait() -> bool:
            waiting = [batch for batch, after_s in pipeline.broker.published if after_s > 1]
            return sum(len(batch.messages) for batch in waiting) > 190

        await eventually(all_wait)
        depths = await pipeline.broker.depths()
        assert sum(1 for name, n in depths.items() if ".retry." in name and n) > 3
        await eventually(lambda: sender.lanes[0].in_flight == 0 == sender.lanes[0].unacked.deliveries)
        await pipeline.publish(200, 1)

        async def fresh_was_tried() -> bool:
            return (await pipeline.snapshot()).retried >= 201

        await eventually(fresh_was_tried)


async def test_a_retry_comes_no_sooner_than_the_provider_asked(pipeline: Pipeline) -> None:
    """Retry-After beats a shorter backoff, for each message by itself, and is spread a little."""
    await pipeline.publish(0, 40)
    gate = Gate()
    pipeline.broker.published.clear()

    def waits() -> dict[int, float]:
        return {m.seq: after_s for batch, after_s in pipeline.broker.published for m in batch.messages}

    async with pipeline.sender(gate, 50, policy=RetryPolicy(max_attempts=3, backoff_s=0.01)):
        await eventually(lambda: len(gate.in_flight) == 40)
        (sends,) = gate.begun
        sends.outcomes[:] = Outcome.RETRY
        sends.retry_after_s = np.where(sends.seqs % 2 == 0, np.float32(20), np.float32(0))
        sends.ambiguous = sends.seqs % 4 == 0
        gate.end_all()
        await eventually(lambda: len(waits()) == 40)
    assert all(20 <= wait_s <= 40 for seq, wait_s in waits().items() if seq % 2 == 0)
    assert all(wait_s <= 0.01 for seq, wait_s in waits().items() if seq % 2)
    now = await pipeline.snapshot()
    assert (now.retried, now.ambiguous, now.queued) == (40, 10, 40)


class CountedLimit:
    """Grants what the test gives it, and no more."""

    rate = 10.0

    def __init__(self) -> None:
        self.permits = 0
        self.asked: list[tuple[Lane, int]] = []

    async def take(self, lane: Lane, wanted: int) -> Grant:
        self.asked.append((lane, wanted))
        granted = min(wanted, self.permits)
        self.permits -= granted
        return Grant(granted, 0.001)


async def test_no_more_sends_begin_than_the_rate_limit_grants(pipeline: Pipeline) -> None:
    """Free slots do not suffice, and messages without a grant are not claimed."""
    await pipeline.publish_many(60, 4)
    gate, limit = Gate(), CountedLimit()
    async with pipeline.sender(gate, 50, grace_s=0, limit=limit):
        for permits in (3, 1, 5):
            before = len(gate.in_flight)
            limit.permits = permits
            await eventually(lambda: len(gate.in_flight) == before + permits)  # noqa: B023  # used at once
            asked = len(limit.asked)
            await eventually(lambda: len(limit.asked) > asked + 2)  # noqa: B023
            assert len(gate.in_flight) == before + permits
        assert (await pipeline.snapshot()).sending == 9


async def test_a_sender_holds_little_ahead_of_the_rate_limit(pipeline: Pipeline) -> None:
    """Messages that cannot be sent within some seconds stay in the queue, for others, even if there are many slots."""
    await pipeline.publish_many(2000, 4)
    gate, limit = Gate(), CountedLimit()
    async with pipeline.sender(gate, 1000, grace_s=0, limit=limit):
        limit.permits = 8
        await eventually(lambda: len(gate.in_flight) == 8)
        asked = len(limit.asked)
        await eventually(lambda: len(limit.asked) > asked + 500)
        in_queue = (await pipeline.broker.depths())["sms_queue"] * 4
        ahead = 2 * limit.rate
        assert 2000 - in_queue - 8 <= ahead + 2 * 4


async def test_a_rate_limit_is_kept_by_all_senders_together(pipeline: Pipeline) -> None:
    """Five senders share one limit: it grants no more than the time allows, no more are begun, and all are sent."""
    grants: list[tuple[float, int]] = []
    begun: list[int] = []
    ahead: list[int] = []

    class NotedLimit(MemoryRateLimit):
        async def take(self, lane: Lane, wanted: int) -> Grant:
            grant = await super().take(lane, wanted)
            grants.append((self._at, grant.granted))
            return grant

    class Noted(SimulatedProvider):
        def start(self, sends: Sends) -> None:
            begun.append(sends.seqs.size)
            ahead.append(sum(begun) - sum(granted for _, granted in grants))
            super().start(sends)

    limit = NotedLimit(400.0)

    await pipeline.publish_many(400, 10)
    async with AsyncExitStack() as stack:
        for _ in range(5):
            provider = Noted(Profile(mean_s=0.01, distribution=Distribution.CONSTANT))
            await stack.enter_async_context(pipeline.sender(provider, 100, limit=limit))
        now = await pipeline.settled(400)
    assert now.sent == 400
    assert max(ahead) <= 0
    for k, (at_s, _) in enumerate(grants):
        within = sum(granted for t_s, granted in grants[k:] if t_s <= at_s + 0.25)
        assert within <= 400 * 0.25 + bucket_of(400)


class StuckBroker(NotingBroker):
    """Publishes that nobody confirms until `free` is set, as under a memory alarm."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck = False
        self.free = asyncio.Event()

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        if not self.stuck:
            return super().publish(batch, lane, after)
        return asyncio.ensure_future(
            self._later(lambda: super(StuckBroker, self).publish(batch, lane, after))
        )

    def park(self, batch: Batch, lane: Lane) -> "asyncio.Future[None]":
        if not self.stuck:
            return super().park(batch, lane)
        return asyncio.ensure_future(self._later(lambda: super(StuckBroker, self).park(batch, lane)))

    async def _later(self, publish: "Callable[[], asyncio.Future[None]]") -> None:
        await self.free.wait()
        await publish()


@pytest.mark.parametrize(("max_attempts", "keep_failed"), [(3, False), (1, True), (2, True)])
async def test_a_lane_drains_though_no_publish_is_confirmed(
    pipeline: Pipeline, max_attempts: int, keep_failed: bool
) -> None:
    """Under a memory alarm copies of retries and kept failures wait, and yet the lane goes on sending."""
    broker = pipeline.broker = StuckBroker()
    await pipeline.publish_many(150, 1)
    broker.stuck = True
    provider = SimulatedProvider(Profile(mean_s=0, retry=0.5), seed=1)
    policy = RetryPolicy(max_attempts, backoff_s=0.01, keep_failed=keep_failed)
    async with pipeline.sender(provider, 5, policy=policy):

        async def drained() -> bool:
            now = await pipeline.snapshot()
            return not broker.queues[Lane.BULK].bodies and now.sent > 50

        await eventually(drained)
        broker.free.set()
        now = await pipeline.settled(150)
    assert (now.published, now.sent + now.failed) == (150, 150)
    kept = sum(len(decode_batch(body)[0].messages) for body, _ in broker.failed)
    assert kept == (now.failed if keep_failed else 0)


async def test_what_fails_is_kept_before_it_is_settled(pipeline: Pipeline) -> None:
    """With KEEP_FAILED every message that the record calls failed stands in the failed queue, number and text too."""
    await pipeline.publish_many(100, 10)
    await pipeline.publish(100, 1, to="12345")
    await pipeline.publish(101, 2, Lane.URGENT)
    provider = SimulatedProvider(Profile(mean_s=0.01, stddev_s=0.005, retry=0.5), seed=2)
    async with pipeline.sender(provider, 20, policy=RetryPolicy(keep_failed=True)):
        now = await pipeline.settled(103)
    kept = [(decode_batch(body)[0], lane) for body, lane in pipeline.broker.failed]
    seqs = sorted(m.seq for batch, _ in kept for m in batch.messages)
    states = await pipeline.ledger.states(RUN, np.arange(103))
    assert seqs == np.flatnonzero(states == State.FAILED).tolist()
    assert len(seqs) == now.failed
    assert 100 in seqs
    assert all(m.text == "text" for batch, _ in kept for m in batch.messages)
    assert {lane for batch, lane in kept if batch.messages[0].seq > 100} <= {Lane.URGENT}


async def test_the_age_of_a_run_reaches_the_provider(pipeline: Pipeline) -> None:
    """Time windows count from the run's beginning, by the ledger's clock, however late a sender joins."""

    async def age_s() -> float:
        now = await pipeline.snapshot()
        return (now.now_us - now.started_us) / 1e6

    await pipeline.publish(0, 1)
    gate = Gate()
    async with pipeline.sender(gate, 5, grace_s=0):
        await eventually(lambda: gate.in_flight == [0])
        first = gate.begun[0].age_s
        assert 0 <= first <= await age_s()
        await pipeline.publish(1, 1)
        await eventually(lambda: gate.in_flight == [0, 1])
        assert first < gate.begun[1].age_s <= await age_s()


async def test_a_provider_that_reads_messages_gets_them(pipeline: Pipeline) -> None:
    """Each send has its own message, also where a large batch is begun in parts."""
    await pipeline.ledger.announce(RUN, 0, 30)
    messages = [Message(seq, f"+9991234567{seq:02}", f"text {seq}") for seq in range(30)]
    await pipeline.broker.publish(Batch(run=RUN, messages=messages), Lane.BULK)
    gate = Gate()
    gate.reads_messages = True
    got: list[Message] = []
    async with pipeline.sender(gate, 4):
        while len(got) < 30:
            await eventually(lambda: gate.begun)
            got += [m for sends in gate.begun for m in sends.messages or []]
            gate.end_all()
        await pipeline.settled(30)
    assert got == messages


async def test_a_retry_of_a_body_at_the_limit_is_sent(pipeline: Pipeline) -> None:
    """A copy also carries its attempt; if it does not fit a body any more, it goes in several."""

    def body(sizes: list[int]) -> bytes:
        messages = [[seq, "+999123456789", "x" * size] for seq, size in enumerate(sizes)]
        return json.dumps({"run": RUN, "messages": messages}, separators=(",", ":")).encode()

    each, more = divmod(MAX_BODY_BYTES - len(body([0] * 700)), 700)
    full = body([each + (k < more) for k in range(700)])
    assert len(full) == MAX_BODY_BYTES
    _, seqs = decode_batch(full)
    await pipeline.ledger.announce(RUN, 0, seqs.size)
    pipeline.broker.publish_raw(full, Lane.BULK)
    async with pipeline.sender(at_once(1.0), 1000, policy=RetryPolicy(max_attempts=2, backoff_s=0.01)):
        now = await pipeline.settled(seqs.size)
    assert (now.retried, now.failed) == (seqs.size, seqs.size)
    assert pipeline.broker.rejected == []


async def test_retries_that_were_asked_to_wait_alike_stay_together(pipeline: Pipeline) -> None:
    """An HTTP date gives each message another wait, by microseconds: they share a copy for each retry queue."""
    await pipeline.publish(0, 40)
    gate = Gate()
    pipeline.broker.published.clear()

    def copies() -> list[int]:
        return [len(batch.messages) for batch, _ in pipeline.broker.published]

    async with pipeline.sender(gate, 50, policy=RetryPolicy(max_attempts=3)):
        await eventually(lambda: len(gate.in_flight) == 40)
        (sends,) = gate.begun
        sends.outcomes[:] = Outcome.RETRY
        sends.retry_after_s = (19.5 + sends.seqs * 0.001).astype(np.float32)
        gate.end_all()
        await eventually(lambda: sum(copies()) == 40)
    assert len(copies()) <= 2  # 20 to 40 s: the queues of 32 s and of 64 s


async def test_a_name_used_again_has_an_age_of_its_own(pipeline: Pipeline) -> None:
    """A run that was forgotten and began again under the same name is young again."""
    now_s = 1_000_000.0
    pipeline.ledger = MemoryLedger(clock=lambda: now_s)
    gate, ages = Gate(), []
    async with pipeline.sender(gate, 5) as sender:
        for older_s in (1000, 10):
            await pipeline.ledger.begin(RUN, "", 1, f"producer-{older_s}")
            now_s += older_s
            await pipeline.publish(0, 1)
            await pipeline.ledger.confirm(RUN, 1)
            await eventually(lambda: gate.in_flight == [0])
            ages.append(gate.begun[0].age_s)
            gate.end_all()
            await pipeline.settled(1)
            await eventually(lambda: not sender.lanes[0].unacked.deliveries)
            await pipeline.ledger.forget(RUN)
    assert ages == [1000, 10]


async def test_what_a_rate_limit_holds_back_for_long_goes_to_the_end_of_the_queue(
    pipeline: Pipeline,
) -> None:
    """Its delivery is acked long before the consumer timeout; its messages are in the queue once."""
    await pipeline.publish_many(15, 5)
    pipeline.broker.published.clear()
    limit = CountedLimit()
    limit.rate = 0.1  # so little that a single batch is held ahead of it
    timing = Timing(review_s=0.02, overdue_s=0.1)
    async with pipeline.sender(at_once(), 50, limit=limit, timing=timing) as sender:
        passed_on = pipeline.broker.published
        await eventually(lambda: len(passed_on) >= 4)
        firsts = [batch.messages[0].seq for batch, _ in passed_on]
        assert firsts[:4] == [0, 5, 10, 0]
        assert all((batch.attempt, batch.seqs().size) == (1, 5) for batch, _ in passed_on)
        limit.permits = 15
        now = await pipeline.settled(15)
        await eventually(lambda: not sender.lanes[0].unacked.deliveries)
    assert (now.sent, now.ambiguous) == (15, 0)


async def test_what_waits_for_confirms_is_bounded(pipeline: Pipeline) -> None:
    """Under a memory alarm a lane drains only so far: each small delivery takes more memory than its body."""
    slots, most = 5, 40
    broker = pipeline.broker = StuckBroker()
    await pipeline.publish_many(1000, 1)
    broker.stuck = True
    size = len(broker.queues[Lane.BULK].bodies[-1].body)
    limits = Limits(delivery_bytes=4096, unacked_bytes=most * (4096 + size))
    policy = RetryPolicy(max_attempts=3, backoff_s=0.01)
    timing = Timing(review_s=0.005, calm_s=0.05)
    more: Any = {"policy": policy, "timing": timing, "limits": limits, "grace_s": 0}
    async with pipeline.sender(at_once(1.0), slots, **more) as sender:
        unacked = sender.lanes[0].unacked
        await eventually(lambda: unacked.deliveries == most)
        # All of them are sent, and wait for confirms: it would go on now if it went on at all.
        await eventually(lambda: sender.counts.of(Outcome.RETRY) == most and sender.lanes[0].in_flight == 0)
        assert unacked.deliveries == most
        broker.free.set()
