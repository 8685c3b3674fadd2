"""A model of the ledger, an array of states, beside the real thing: whatever is called, they agree."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from common.errors import LedgerLost, RunOpen, UnknownRun
from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.ledger.redis import RedisLedger
from common.ledger.values import Outcomes, Publication, Standing
from common.messages import Outcome, Seqs, State
from tests.contract.benches import redis_ledger
from tests.examples import examples
from tests.servers import RedisServer

T = TypeVar("T")
RUN = "model"
# Around the border of a piece, so that calls span two of them.
BASE = (1 << 17) - 20
BEYOND = BASE + 40
TOTAL = BASE + 20
some_seqs = st.lists(st.integers(BASE, BEYOND - 1), min_size=1, max_size=12, unique=True)
ALL_SEQS = np.arange(BEYOND)


class ModelRun:
    """What is known of one run."""

    def __init__(self) -> None:
        self.states = np.full(BEYOND, State.QUEUED, np.uint8)
        self.canceled = np.zeros(BEYOND, np.bool_)
        self.unannounced = np.zeros(BEYOND, np.bool_)
        self.announced = self.confirmed = 0
        self.total = TOTAL
        self.cut = False
        self.retried = self.ambiguous = self.total_time_us = 0

    def published(self) -> Seqs:
        published = self.unannounced.copy()
        published[: self.announced] = True
        return np.flatnonzero(published)

    def unsettled(self) -> Seqs:
        seqs = self.published()
        return seqs[self.states[seqs] < State.SENT]

    def counted(self) -> Counter[str]:
        """What can be counted message by message."""
        by_state = np.bincount(self.states, minlength=4).tolist()
        counted = Counter({s.name.lower(): by_state[s] for s in (State.SENDING, State.SENT, State.FAILED)})
        counted["published"] = self.published().size
        return counted

    def counters(self) -> Counter[str]:
        names = ("retried", "ambiguous", "total_time_us")
        others = Counter({name: getattr(self, name) for name in names})
        others["canceled"] = int(np.count_nonzero(self.canceled))
        return self.counted() + others

    def is_over(self) -> bool:
        return self.unsettled().size == 0 and self.total <= self.published().size

    def is_open(self) -> bool:
        return self.unsettled().size > 0 or not (self.cut or self.total <= self.published().size)

    def move(self, seq: int, outcome: Outcome, ambiguous: bool) -> None:
        """Settles one message."""
        state = self.states[seq]
        if state >= State.SENT or state == outcome:
            return
        self.unannounced[seq] |= seq >= self.announced
        self.states[seq] = outcome
        self.ambiguous += ambiguous
        self.retried += outcome is Outcome.RETRY
        self.total_time_us += 7 * (outcome is not Outcome.RETRY)


class LedgerMachine(RuleBasedStateMachine):
    """Calls in any order, with any seqs; each is sometimes made twice, as after a lost answer.

    A run that was forgotten goes on being called about, as late copies do, until it begins again.
    """

    loop: asyncio.AbstractEventLoop
    redis_server: RedisServer | None = None

    def __init__(self) -> None:
        super().__init__()
        self.ledger: Ledger
        self.run: ModelRun | None = ModelRun()
        self.forgotten: Counter[str] = Counter()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    @initialize()
    def open(self) -> None:
        if self.redis_server is None:
            self.ledger = MemoryLedger()
        else:
            self.ledger = self.call(redis_ledger(self.redis_server))
        self.call(self.ledger.begin(RUN, "", TOTAL, "p"))

    @rule(upto=st.integers(BASE - 5, BEYOND), twice=st.booleans())
    def announce(self, upto: int, twice: bool) -> None:
        for _ in range(1 + twice):
            if self.run and self.run.cut and upto > self.run.announced:
                with pytest.raises(LedgerLost):
                    self.call(self.ledger.announce(RUN, 0, upto))
                return
            self.call(self.ledger.announce(RUN, 0, upto))
        if self.run:
            self.run.announced = max(self.run.announced, upto)

    @rule(upto=st.integers(0, BASE))
    def confirm(self, upto: int) -> None:
        self.call(self.ledger.confirm(RUN, upto))
        if self.run:
            self.run.confirmed = max(self.run.confirmed, upto)

    @rule(seqs=some_seqs, redelivered=st.booleans())
    def claim(self, seqs: list[int], redelivered: bool) -> None:
        standing = self.call(self.ledger.claim(RUN, np.array(seqs), redelivered)).standing.tolist()
        if self.run is None:
            assert standing == [Standing.SETTLED] * len(seqs)
            return
        expected = []
        for seq in seqs:
            self.run.unannounced[seq] |= seq >= self.run.announced
            match self.run.states[seq]:
                case State.QUEUED:
                    self.run.states[seq] = State.SENDING
                    expected.append(Standing.NEW)
                case State.SENDING:
                    self.run.ambiguous += redelivered
                    expected.append(Standing.AMBIGUOUS if redelivered else Standing.DUPLICATE)
                case _:
                    expected.append(Standing.SETTLED)
        assert standing == expected

    @rule(seqs=some_seqs, data=st.data(), flagged=st.booleans(), twice=st.booleans())
    def settle(self, seqs: list[int], data: st.DataObject, flagged: bool, twice: bool) -> None:
        said = [data.draw(st.sampled_from(list(Outcome))) for _ in seqs]
        flags = [flagged and data.draw(st.booleans()) for _ in seqs]
        outcomes = Outcomes(
            np.array(seqs),
            np.array(said, np.uint8),
            np.full(len(seqs), 7),
            np.array(flags) if flagged else None,
        )
        for _ in range(1 + twice):
            self.call(self.ledger.settle(RUN, outcomes, "s"))
        if self.run:
            for seq, outcome, ambiguous in zip(seqs, said, flags, strict=True):
                self.run.move(seq, outcome, ambiguous)

    @rule(seqs=some_seqs, twice=st.booleans())
    def release(self, seqs: list[int], twice: bool) -> None:
        for _ in range(1 + twice):
            self.call(self.ledger.release(RUN, np.array(seqs)))
        if self.run:
            held = [seq for seq in seqs if self.run.states[seq] == State.SENDING]
            self.run.states[held] = State.QUEUED

    @rule(seqs=some_seqs, twice=st.booleans())
    def cancel(self, seqs: list[int], twice: bool) -> None:
        for seq in seqs if self.run else []:
            if self.run and self.run.states[seq] == State.QUEUED:
                self.run.unannounced[seq] |= seq >= self.run.announced
                self.run.states[seq] = State.FAILED
                self.run.canceled[seq] = True
        expected = [self.run is not None and bool(self.run.canceled[seq]) for seq in seqs]
        for _ in range(1 + twice):
            assert self.call(self.ledger.cancel(RUN, np.array(seqs))).tolist() == expected

    @rule(twice=st.booleans())
    def cut(self, twice: bool) -> None:
        for _ in range(1 + twice):
            if self.run is None:
                with pytest.raises(UnknownRun):
                    self.call(self.ledger.close_run(RUN))
            else:
                self.call(self.ledger.close_run(RUN))
        if self.run:
            self.run.total = self.run.confirmed = self.run.announced
            self.run.cut = True

    @precondition(lambda self: self.run)
    @rule()
    def fail_what_is_unsettled(self) -> None:
        async def repair() -> None:
            async for seqs in self.ledger.unsettled(RUN):
                failed = np.full(seqs.size, Outcome.FAILED, np.uint8)
                await self.ledger.settle(RUN, Outcomes(seqs, failed, np.full(seqs.size, 7)))

        self.call(repair())
        assert self.run
        seqs = self.run.unsettled()
        self.run.states[seqs] = State.FAILED
        self.run.total_time_us += 7 * seqs.size

    @rule()
    def forget(self) -> None:
        if self.run is None:
            with pytest.raises(UnknownRun):
                self.call(self.ledger.forget(RUN))
        elif self.run.is_over():
            self.call(self.ledger.forget(RUN))
            self.forgotten += self.run.counters()
            self.run = None
        else:
            with pytest.raises(RunOpen):
                self.call(self.ledger.forget(RUN))

    @precondition(lambda self: self.run)
    @rule()
    def end_and_forget(self) -> None:
        """What an audit's repair and a forget do; the calls that make a run end come together seldom by chance."""
        self.cut(twice=False)
        self.fail_what_is_unsettled()
        self.forget()
        assert self.run is None

    @rule(twice=st.booleans())
    def begin(self, twice: bool) -> None:
        for _ in range(1 + twice):
            self.call(self.ledger.begin(RUN, "", TOTAL, "p"))
        self.run = self.run or ModelRun()

    @invariant()
    def the_run_is_as_the_model_has_it(self) -> None:
        for listed in (self.ledger.runs(), self.ledger.runs(5)):
            assert self.call(listed) == [RUN] * (self.run is not None)
        is_open = self.run is not None and self.run.is_open()
        assert self.call(self.ledger.open_runs()) == [RUN] * is_open
        if self.run is None:
            for call in (self.ledger.snapshot, self.ledger.recount, self.ledger.publication):
                with pytest.raises(UnknownRun):
                    self.call(call(RUN))
            return
        now, counted = self.call(self.ledger.snapshot(RUN)), self.call(self.ledger.recount(RUN))
        assert counted == dict(self.run.counted())
        assert self.counters_of(now) == self.run.counters()
        assert (now.total, sum(now.latency.values())) == (self.run.total, now.settled - now.canceled)
        states = self.call(self.ledger.states(RUN, ALL_SEQS))
        assert np.array_equal(states, self.run.states)
        assert np.array_equal(self.call(self.ledger.canceled(RUN, ALL_SEQS)), self.run.canceled)
        assert np.array_equal(self.call(self.unsettled()), self.run.unsettled())
        far = self.call(self.ledger.publication(RUN))
        run = self.run
        assert far == Publication("", run.total, run.announced, run.confirmed, far.publishing)

    @invariant()
    def the_totals_keep_what_is_forgotten(self) -> None:
        now = self.call(self.ledger.snapshot())
        expected = self.forgotten + (self.run.counters() if self.run else Counter())
        assert self.counters_of(now) == expected
        assert sum(now.latency.values()) == now.settled - now.canceled

    async def unsettled(self) -> Seqs:
        found = [seqs async for seqs in self.ledger.unsettled(RUN)]
        assert all(0 < seqs.size <= 1 << 17 for seqs in found)
        return np.concatenate([np.zeros(0, np.int64), *found])

    def counters_of(self, snapshot: object) -> Counter[str]:
        names = (
            "published",
            "sending",
            "sent",
            "failed",
            "canceled",
            "retried",
            "ambiguous",
            "total_time_us",
        )
        return +Counter({name: getattr(snapshot, name) for name in names})

    def teardown(self) -> None:
        if isinstance(getattr(self, "ledger", None), RedisLedger):
            self.call(self.ledger.close())


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.timeout(300)
def test_the_memory_ledger_is_what_the_model_says(loop: asyncio.AbstractEventLoop) -> None:
    """Any sequence of calls leaves the same states, counters and answers."""
    LedgerMachine.loop, LedgerMachine.redis_server = loop, None
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(max_examples=examples(30, 150), stateful_step_count=30, deadline=None),
    )


@pytest.mark.timeout(300)
def test_the_redis_ledger_is_what_the_model_says(
    loop: asyncio.AbstractEventLoop, redis_server: RedisServer
) -> None:
    """The same, through the Lua scripts of a real Redis."""
    LedgerMachine.loop, LedgerMachine.redis_server = loop, redis_server
    run_state_machine_as_test(
        LedgerMachine, settings=settings(max_examples=examples(15, 60), stateful_step_count=30, deadline=None)
    )
