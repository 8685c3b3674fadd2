"""A model of the ledger, a dictionary of states, beside the real thing: whatever is called, they agree."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger, Outcomes, Standing
from common.ledger.redis import RedisLedger
from common.messages import Outcome, State
from tests.contract.benches import redis_ledger
from tests.servers import RedisServer

T = TypeVar("T")
RUN = "model"
# Around the border of a piece, so that calls span two of them.
BASE = (1 << 17) - 20
some_seqs = st.lists(st.integers(BASE, BASE + 39), min_size=1, max_size=12, unique=True)


class LedgerMachine(RuleBasedStateMachine):
    """Calls in any order, with any seqs; each is sometimes made twice, as after a lost answer."""

    loop: asyncio.AbstractEventLoop
    redis_server: RedisServer | None = None

    def __init__(self) -> None:
        super().__init__()
        self.ledger: Ledger
        self.states: dict[int, State] = {}
        self.announced = 0
        self.foreign: set[int] = set()
        self.retried = self.ambiguous = self.time_us = 0

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    @initialize()
    def open(self) -> None:
        if self.redis_server is None:
            self.ledger = MemoryLedger()
        else:
            self.ledger = self.call(redis_ledger(self.redis_server))
        self.call(self.ledger.begin(RUN, "", 1 << 18, "p"))

    @rule(upto=st.integers(BASE - 5, BASE + 40), twice=st.booleans())
    def announce(self, upto: int, twice: bool) -> None:
        for _ in range(1 + twice):
            self.call(self.ledger.announce(RUN, 0, upto))
        self.announced = max(self.announced, upto)

    @rule(seqs=some_seqs, redelivered=st.booleans())
    def claim(self, seqs: list[int], redelivered: bool) -> None:
        standing = self.call(self.ledger.claim(RUN, np.array(seqs), redelivered)).tolist()
        expected = []
        for seq in seqs:
            if seq >= self.announced:
                self.foreign.add(seq)
            match self.states.get(seq, State.QUEUED):
                case State.QUEUED:
                    self.states[seq] = State.SENDING
                    expected.append(Standing.NEW)
                case State.SENDING:
                    self.ambiguous += redelivered
                    expected.append(Standing.AMBIGUOUS if redelivered else Standing.DUPLICATE)
                case _:
                    expected.append(Standing.SETTLED)
        assert standing == expected

    @rule(seqs=some_seqs, data=st.data(), twice=st.booleans())
    def settle(self, seqs: list[int], data: st.DataObject, twice: bool) -> None:
        said = [data.draw(st.sampled_from(list(Outcome))) for _ in seqs]
        outcomes = Outcomes(np.array(seqs), np.array(said, np.uint8), np.full(len(seqs), 7))
        for _ in range(1 + twice):
            self.call(self.ledger.settle(RUN, outcomes, "s"))
        for seq, outcome in zip(seqs, said, strict=True):
            state = self.states.get(seq, State.QUEUED)
            if state >= State.SENT or int(state) == int(outcome):
                continue
            if seq >= self.announced:
                self.foreign.add(seq)
            self.states[seq] = State(outcome)
            self.retried += outcome is Outcome.RETRY
            self.time_us += 7 * (outcome is not Outcome.RETRY)

    @rule(seqs=some_seqs, twice=st.booleans())
    def release(self, seqs: list[int], twice: bool) -> None:
        for _ in range(1 + twice):
            self.call(self.ledger.release(RUN, np.array(seqs)))
        for seq in seqs:
            if self.states.get(seq) is State.SENDING:
                self.states[seq] = State.QUEUED

    @invariant()
    def counters_and_states_agree(self) -> None:
        states = list(self.states.values())
        by_state = {s.name.lower(): states.count(s) for s in (State.SENDING, State.SENT, State.FAILED)}
        assert self.call(self.ledger.recount(RUN)) == by_state
        for run in (RUN, None):
            now = self.call(self.ledger.snapshot(run))
            assert {name: getattr(now, name) for name in by_state} == by_state
            assert now.published == self.announced + len({s for s in self.foreign if s >= self.announced})
            assert (now.retried, now.ambiguous, now.total_time_us) == (
                self.retried,
                self.ambiguous,
                self.time_us,
            )
            assert sum(now.latency.values()) == now.settled

    def teardown(self) -> None:
        if isinstance(getattr(self, "ledger", None), RedisLedger):
            self.call(self.ledger.close())


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_the_memory_ledger_is_what_the_model_says(loop: asyncio.AbstractEventLoop) -> None:
    """Any sequence of calls leaves the same states, counters and answers."""
    LedgerMachine.loop, LedgerMachine.redis_server = loop, None
    run_state_machine_as_test(LedgerMachine, settings=settings(max_examples=200, deadline=None))


@pytest.mark.timeout(300)
def test_the_redis_ledger_is_what_the_model_says(
    loop: asyncio.AbstractEventLoop, redis_server: RedisServer
) -> None:
    """The same, through the Lua scripts of a real Redis."""
    LedgerMachine.loop, LedgerMachine.redis_server = loop, redis_server
    run_state_machine_as_test(
        LedgerMachine, settings=settings(max_examples=60, stateful_step_count=25, deadline=None)
    )
