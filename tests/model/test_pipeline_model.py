"""A model of the pipeline: whatever senders, producers, broker and ledger suffer, every message counts once.

The machine drives the real sender and producer. It keeps its own record of each message (announced, really sent, may be
failed) and compares it with the ledger after every step and after the queues have drained.
"""

import asyncio

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from common.broker.port import ParkedQueue
from common.messages import Batch, Lane, State, decode_batch
from common.rate.memory import MemoryRateLimit
from tests.examples import examples
from tests.model.world import (
    BAD_SEQ,
    Confirm,
    Ending,
    Fate,
    MessageId,
    ProducerProcess,
    SenderProcess,
    VirtualLoop,
    World,
    at_once,
    message,
    virtual_loop,
)

__all__ = ["virtual_loop"]

RUNS = ("a", "b")
LONGEST_RUN = 12
MOST_SENDERS = 3
# The last is longer than a sender's grace and the longest backoff.
TIMES_S = (0.0, 0.005, 0.1, 0.3, 3.0)
DRAIN_ROUNDS = 60
RATE = 20
# Calls that can fail in more ways are drawn more often.
CALLS = ("claim", "claim", "settle", "settle", "settle", "release", "announce", "confirm", "reject")
places = st.integers(0, 255)
some_endings = st.lists(st.sampled_from(Ending), min_size=1, max_size=4)


class PipelineMachine(RuleBasedStateMachine):
    """At most two runs and three senders, and all their failures."""

    loop: VirtualLoop

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.loop)
        self.senders: list[SenderProcess] = []
        self.producers: dict[str, ProducerProcess] = {}
        self.publishing: list[str] = []
        self.lanes: dict[str, Lane] = {}
        self.counts: dict[str, int] = {}
        self.known: set[MessageId] = set()
        self.settled: dict[MessageId, State] = {}
        # The canceled messages, and those of them that no sender had claimed before.
        self.canceled: set[MessageId] = set()
        self.untouched: set[MessageId] = set()
        self.poison = 0
        self.started = 0
        self.max_attempts = 1
        self.keep_failed = False
        self.limit: MemoryRateLimit | None = None
        self.sound = True

    @initialize(
        max_attempts=st.integers(1, 3),
        keep_failed=st.booleans(),
        limited=st.booleans(),
        count=st.integers(1, LONGEST_RUN),
        batch_size=st.integers(1, 6),
        lane=st.sampled_from(Lane),
        slots=st.integers(1, 6),
        fate=st.none() | st.sampled_from(Fate),
    )
    def open(
        self,
        max_attempts: int,
        keep_failed: bool,
        limited: bool,
        count: int,
        batch_size: int,
        lane: Lane,
        slots: int,
        fate: Fate | None,
    ) -> None:
        """Often lets the first claim of a first delivery fail."""
        if fate is not None:
            self.world.fates["claim"].append(fate)
        self.max_attempts, self.keep_failed = max_attempts, keep_failed
        if limited:
            self.limit = MemoryRateLimit(RATE, self.loop.time)
        self.publish(count, batch_size, lane)
        self.start_sender(slots)

    # Producers

    @precondition(lambda self: len(self.counts) < len(RUNS))
    @rule(count=st.integers(1, LONGEST_RUN), batch_size=st.integers(1, 6), lane=st.sampled_from(Lane))
    def publish(self, count: int, batch_size: int, lane: Lane) -> None:
        run = RUNS[len(self.counts)]
        self.counts[run], self.lanes[run] = count, lane
        at_once(self.world.ledger.begin(run, "", count, "p"))
        self._produce(run, batch_size, 0)

    def _produce(self, run: str, batch_size: int, first: int) -> None:
        self.known |= {(run, seq) for seq in range(self.counts[run])}
        self.producers[run] = ProducerProcess(
            self.world, run, self.counts[run], batch_size, self.lanes[run], first
        )

    @precondition(lambda self: self.publishing)
    @rule()
    def kill_producers(self) -> None:
        for run in self.publishing:
            self.producers.pop(run).kill()

    @rule(batch_size=st.integers(1, 6))
    def resume(self, batch_size: int) -> None:
        for run in [run for run in self.counts if run not in self.producers]:
            at_once(self.world.ledger.leave(run, "p"))
            found = at_once(self.world.ledger.resume(run, "p"))
            self._produce(run, batch_size, found.confirmed)

    @rule(
        run=st.sampled_from(RUNS),
        first=st.integers(0, LONGEST_RUN - 1),
        step=st.sampled_from([1, 2, -1]),
        count=st.integers(1, 4),
        attempt=st.integers(1, 3),
        lane=st.sampled_from(Lane),
        after=st.sampled_from([0, 0.125, 1]),
    )
    def publish_a_copy(
        self, run: str, first: int, step: int, count: int, attempt: int, lane: Lane, after: float
    ) -> None:
        """Publishes a copy of some messages: a duplicate, a part, or a late retry, perhaps before the original."""
        seqs = [seq for seq in range(first, first + step * count, step) if 0 <= seq < self.counts.get(run, 0)]
        if not seqs:
            return
        batch = Batch(
            run=run, attempt=min(attempt, self.max_attempts), messages=[message(seq) for seq in seqs]
        )

        async def publish() -> None:
            await self.world.broker.publish(batch, lane, after)

        self.loop.do(publish())

    @rule(run=st.sampled_from(RUNS), first=st.integers(0, LONGEST_RUN - 1), count=st.integers(1, 4))
    def cancel(self, run: str, first: int, count: int) -> None:
        """Cancels some messages, wherever their copies are, including later ones."""
        seqs = np.arange(first, min(first + count, self.counts.get(run, 0)))
        if seqs.size:
            of_these = at_once(self.world.ledger.cancel(run, seqs))
            canceled = {(run, seq) for seq in seqs[of_these].tolist()}
            self.canceled |= canceled
            self.untouched |= canceled - self.world.asked_for
            self.world.may_be_failed |= canceled

    @rule()
    def publish_poison(self) -> None:
        async def publish() -> None:
            self.world.broker.publish_raw(b"no batch", Lane.BULK)

        self.loop.do(publish())
        self.poison += 1

    # Senders

    @precondition(lambda self: len(self.senders) < MOST_SENDERS)
    @rule(slots=st.integers(1, 6))
    def start_sender(self, slots: int) -> None:
        self.started += 1
        name = f"s{self.started}"
        self.senders.append(
            SenderProcess(self.world, name, slots, self.max_attempts, self.keep_failed, self.limit)
        )

    @precondition(lambda self: self.senders)
    @rule(which=places, went_out=st.booleans())
    def kill_sender(self, which: int, went_out: bool) -> None:
        """Kills a sender. Its sends went out or not."""
        self.senders.pop(which % len(self.senders)).kill(went_out)

    @precondition(lambda self: self.senders)
    @rule(
        which=places,
        endings=some_endings,
        call=st.sampled_from(["claim", "settle", "settle"]),
        fate=st.sampled_from(Fate),
        after_s=st.sampled_from([0.006, 0.11, 0.5]),
        went_out=st.booleans(),
    )
    def kill_sender_amid_a_call(
        self, which: int, endings: list[Ending], call: str, fate: Fate, after_s: float, went_out: bool
    ) -> None:
        """Kills a sender during a ledger call, which random kills rarely hit."""
        self.world.fates[call].appendleft(fate)
        sender = self.senders[which % len(self.senders)]
        self.loop.do(self._end_sends(sender, 0, endings, 0.1))
        self.loop.pass_time(after_s)
        self.senders.remove(sender)
        sender.kill(went_out)

    @precondition(lambda self: self.senders)
    @rule(which=places)
    def stop_sender(self, which: int) -> None:
        self.senders[which % len(self.senders)].stop()

    @precondition(lambda self: self.senders)
    @rule(which=places)
    def disconnect(self, which: int) -> None:
        self.senders[which % len(self.senders)].broker.disconnect()

    @rule()
    def disconnect_all(self) -> None:
        for sender in self.senders:
            sender.broker.disconnect()

    @precondition(lambda self: any(sender.provider.in_flight for sender in self.senders))
    @rule(which=places, place=places, endings=some_endings, took_s=st.sampled_from([0.1, 2000.0]))
    def sends_end(self, which: int, place: int, endings: list[Ending], took_s: float) -> None:
        """Ends some sends of one sender. Very long ones make it split its batches."""
        busy = [sender for sender in self.senders if sender.provider.in_flight]
        self.loop.do(self._end_sends(busy[which % len(busy)], place, endings, took_s))

    async def _end_sends(
        self, sender: SenderProcess, place: int, endings: list[Ending], took_s: float
    ) -> None:
        for ending in endings:
            if in_flight := len(sender.provider.in_flight):
                sender.provider.end(place % in_flight, ending, took_s)

    # Servers and time

    @rule(call=st.sampled_from(CALLS), fates=st.lists(st.sampled_from(Fate), min_size=1, max_size=2))
    def trouble_the_ledger(self, call: str, fates: list[Fate]) -> None:
        self.world.fates[call].extend(fates)

    @rule(confirms=st.lists(st.sampled_from(Confirm), min_size=1, max_size=2))
    def trouble_the_broker(self, confirms: list[Confirm]) -> None:
        self.world.confirms.extend(confirms)

    @rule(seconds=st.sampled_from(TIMES_S))
    def time_passes(self, seconds: float) -> None:
        self.loop.pass_time(seconds)

    # Invariants

    @invariant()
    def every_message_is_in_one_state(self) -> None:
        self.sound = False
        self.loop.pass_time(0)
        self.senders = [sender for sender in self.senders if sender.runs]
        self.publishing = [run for run, producer in self.producers.items() if producer.runs]
        total = np.zeros(6, np.int64)
        for run, count in self.counts.items():
            total += self._check(run, count)
        everything = at_once(self.world.ledger.snapshot())
        assert [
            everything.published,
            everything.sending,
            everything.sent,
            everything.failed,
            everything.retried,
            everything.ambiguous,
        ] == total.tolist()
        assert sum(self.world.went_out.values()) - len(self.world.went_out) <= everything.ambiguous
        assert not self.untouched & self.world.went_out.keys()
        self.sound = True

    def _check(self, run: str, count: int) -> list[int]:
        """Compares a run's counters with its states and the states with the record. Returns the counters."""
        ledger = self.world.ledger
        now = at_once(ledger.snapshot(run))
        recount = at_once(ledger.recount(run))
        states = at_once(ledger.states(run, np.arange(count))).tolist()
        counters = {name: getattr(now, name) for name in ("published", "sending", "sent", "failed")}
        assert counters == recount
        assert counters["sending"] == states.count(State.SENDING)
        assert (counters["sent"], counters["failed"]) == (
            states.count(State.SENT),
            states.count(State.FAILED),
        )
        assert 0 <= now.queued <= states.count(State.QUEUED)
        assert now.published <= count
        for seq, state in enumerate(states):
            if state < State.SENT:
                assert (run, seq) not in self.settled
                continue
            assert self.settled.setdefault((run, seq), State(state)) == state
            if state == State.SENT:
                assert self.world.went_out[run, seq]
            else:
                assert seq == BAD_SEQ or (run, seq) in self.world.may_be_failed
        return [now.published, now.sending, now.sent, now.failed, now.retried, now.ambiguous]

    # The end

    def teardown(self) -> None:
        try:
            if self.sound and self.counts:
                self.drain()
                self.all_came_to_its_end()
        finally:
            self.end()

    def drain(self) -> None:
        """Lets everything finish without further failures."""
        self.world.calm()
        self.resume(6)
        if len(self.senders) < MOST_SENDERS:
            self.start_sender(4)
        for _ in range(DRAIN_ROUNDS):
            self.loop.do(self._all_sends_go_out())
            self.loop.pass_time(0.5)
            self.every_message_is_in_one_state()
            if not self.senders:
                self.start_sender(4)
            if self._at_rest():
                return
        raise AssertionError(f"never at rest: {self.loop.do(self.world.broker.depths())}")

    async def _all_sends_go_out(self) -> None:
        for sender in self.senders:
            sender.provider.by_itself = True
            sender.provider.end_all()

    def _at_rest(self) -> bool:
        depths = self.loop.do(self.world.broker.depths())
        waiting = {name: depth for name, depth in depths.items() if not name.endswith(tuple(ParkedQueue))}
        return (
            not any(waiting.values()) and not self.publishing and all(sender.idle for sender in self.senders)
        )

    def all_came_to_its_end(self) -> None:
        for sender in self.senders:
            sender.stop()
        self.loop.pass_time(3)
        assert not any(sender.runs for sender in self.senders)
        self.every_message_is_in_one_state()
        assert not any(
            depth
            for name, depth in self.loop.do(self.world.broker.depths()).items()
            if not name.endswith(tuple(ParkedQueue))
        )
        assert self.settled.keys() == self.known
        now = at_once(self.world.ledger.snapshot())
        assert (now.published, now.queued, now.sending) == (len(self.known), 0, 0)
        assert now.rejected >= self.poison <= len(self.world.broker.rejected)
        if self.keep_failed:
            failed = {m for m, state in self.settled.items() if state == State.FAILED}
            assert failed - self.canceled <= self.loop.do(self._kept())
        assert self.loop.complaints == []

    async def _kept(self) -> set[MessageId]:
        """The messages on the failed shelf."""
        depth = (await self.world.broker.depths())["sms_queue.failed"]
        subscription = await self.world.broker.subscribe(ParkedQueue.FAILED, depth)
        bodies = [delivery.body for delivery in await subscription.take()] if depth else []
        return {(batch.run, m.seq) for batch, _ in map(decode_batch, bodies) for m in batch.messages}

    def end(self) -> None:
        """Cancels all tasks of the loop."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.do(self.world.broker.close())
        self.loop.pass_time(0)
        self.loop.complaints.clear()


@pytest.mark.timeout(600)
def test_every_message_is_counted_once_whatever_happens(virtual_loop: VirtualLoop) -> None:
    """After every step published = queued + sending + sent + failed. At the end, every message is settled, and every
    sent one was really sent.
    """
    PipelineMachine.loop = virtual_loop
    run_state_machine_as_test(
        PipelineMachine,
        settings=settings(
            max_examples=examples(200, 2000),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
