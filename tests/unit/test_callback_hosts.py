"""Slots for receiving hosts: slow and dead hosts wait for one another, and others do not wait for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.callbacks.hosts import Health, HostFailing, HostLimits, Hosts
from tests.waiting import eventually

SLOTS = {Health.NEW: 4, Health.HEALTHY: 3, Health.FAILING: 2}
HELD = {Health.NEW: 5, Health.HEALTHY: 20, Health.FAILING: 1}
LIMITS = HostLimits(slots=SLOTS, held=HELD, in_progress=2)
SLOW_S = LIMITS.slow_s + 1


class Attempt:
    """An attempt that lasts until the test ends it."""

    def __init__(self, hosts: Hosts, name: str) -> None:
        self.has_slot = self.is_refused = False
        self._hosts = hosts
        self._host = hosts.host(name)
        self._ends = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async with self._hosts.slot(self._host):
                self.has_slot = True
                await self._ends.wait()
        except HostFailing:
            self.is_refused = True
        self.has_slot = False

    async def end(self, succeeded: bool | None, took_s: float = 0.0) -> None:
        """Ends the attempt; None: nothing was attempted."""
        if succeeded is not None:
            self._hosts.note(self._host, succeeded, took_s)
        self._ends.set()
        await self.task


class Bench:
    """Hosts, and attempts that go on."""

    def __init__(self, limits: HostLimits) -> None:
        self.hosts = Hosts(limits)
        self.attempts: list[Attempt] = []

    def start(self, *names: str) -> list[Attempt]:
        """Starts attempts, except where a host's queue is full."""
        started = [Attempt(self.hosts, name) for name in names if self.hosts.reserve(self.hosts.host(name))]
        self.attempts += started
        return started

    async def attempt(self, succeeded: bool, took_s: float, *names: str) -> None:
        """Makes one attempt for each host, one after the other."""
        for name in names:
            (attempt,) = self.start(name)
            await attempt.end(succeeded, took_s)

    async def in_progress(self, attempts: list[Attempt]) -> int:
        """How many attempts have a slot, once every task has had its turns."""
        for _ in range(20):
            await asyncio.sleep(0)
        return sum(attempt.has_slot for attempt in attempts)


@asynccontextmanager
async def benched(limits: HostLimits) -> AsyncIterator[Bench]:
    bench = Bench(limits)
    yield bench
    for attempt in bench.attempts:
        attempt.task.cancel()
    await asyncio.gather(*(attempt.task for attempt in bench.attempts), return_exceptions=True)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with benched(LIMITS) as bench:
        yield bench


async def test_a_healthy_host_waits_for_no_other_kind(bench: Bench) -> None:
    """However many new and failing hosts have attempts in progress."""
    dead = [f"dead{n}" for n in range(50)]
    await bench.attempt(True, 0, "healthy")
    await bench.attempt(False, SLOW_S, *dead)
    hanging = bench.start(*dead, *(f"new{n}" for n in range(50)))
    assert await bench.in_progress(hanging) == SLOTS[Health.FAILING] + SLOTS[Health.NEW]
    assert await bench.in_progress(bench.start(*["healthy"] * 5)) == LIMITS.in_progress


async def test_a_new_host_waits_for_new_hosts_only(bench: Bench) -> None:
    """It gets a slot as soon as one of them ends."""
    dead = [f"dead{n}" for n in range(50)]
    await bench.attempt(False, SLOW_S, *dead)
    bench.start(*dead)
    new = bench.start(*(f"new{n}" for n in range(SLOTS[Health.NEW] + 1)))
    assert await bench.in_progress(new) == SLOTS[Health.NEW]
    await new[0].end(False, SLOW_S)
    await eventually(lambda: new[-1].has_slot)


async def test_hosts_take_turns(bench: Bench) -> None:
    """A host with many callbacks does not keep the others from their slots."""
    await bench.attempt(True, 0, "a", "b", "c")
    busy = bench.start(*["a"] * 10, *["b"] * 10)
    assert await bench.in_progress(busy) == SLOTS[Health.HEALTHY]
    (other,) = bench.start("c")
    assert await bench.in_progress([other]) == 0
    for attempt in [attempt for attempt in busy if attempt.has_slot][:2]:
        await attempt.end(True)
    await eventually(lambda: other.has_slot)


async def test_a_host_that_begins_to_fail_loses_its_queue(bench: Bench) -> None:
    """Then one callback at a time probes it. After a success, it has its queue again."""
    await bench.attempt(True, 0, "a")
    first, second, *others = bench.start(*["a"] * 10)
    assert await bench.in_progress([first, second]) == 2
    await first.end(False, SLOW_S)
    await eventually(lambda: all(attempt.is_refused for attempt in others))
    assert bench.start("a") == []
    await second.end(False, SLOW_S)
    (probe,) = bench.start("a", "a")
    assert await bench.in_progress([probe]) == 1
    await probe.end(True)
    assert await bench.in_progress(bench.start(*["a"] * 5)) == LIMITS.in_progress


async def test_a_host_that_fails_while_it_waits_for_a_slot(bench: Bench) -> None:
    """Its waiting attempt is refused, and takes no slot of healthy hosts."""
    await bench.attempt(True, 0, "a", "b", "c")
    first, *_ = busy = bench.start("a", "b", "b")
    assert await bench.in_progress(busy) == SLOTS[Health.HEALTHY]
    waiting, other = bench.start("a", "c")
    assert await bench.in_progress([waiting, other]) == 0
    await first.end(False, SLOW_S)
    await eventually(lambda: waiting.is_refused and other.has_slot)


async def test_prompt_failures_cost_nothing(bench: Bench) -> None:
    """A refused connection or a 500 leaves the host healthy. Nothing attempted leaves it as it was."""
    (attempt,) = bench.start("a")
    await attempt.end(None)
    assert bench.hosts.host("a").health is Health.NEW
    await bench.attempt(False, LIMITS.slow_s / 2, "a")
    assert bench.hosts.host("a").health is Health.HEALTHY


async def test_a_new_host_has_one_attempt_and_a_short_queue(bench: Bench) -> None:
    """Until it responds."""
    attempts = bench.start(*["a"] * 10)
    assert len(attempts) == HELD[Health.NEW]
    assert await bench.in_progress(attempts) == 1
    await attempts[0].end(True)
    assert await bench.in_progress(attempts) == LIMITS.in_progress


async def test_a_cancelled_attempt_takes_no_slot(bench: Bench) -> None:
    """Its place in the queue is free again."""
    hanging = bench.start(*(f"h{n}" for n in range(SLOTS[Health.NEW])))
    cancelled, following = bench.start("cancelled", "following")
    await bench.in_progress([cancelled])
    cancelled.task.cancel()
    await asyncio.gather(cancelled.task, return_exceptions=True)
    assert bench.hosts.host("cancelled").held == 0
    await hanging[0].end(True)
    await eventually(lambda: following.has_slot)


async def test_remembered_hosts_are_bounded() -> None:
    """Those not used for the longest time are forgotten, except those with attempts in progress."""
    async with benched(HostLimits(hosts=10)) as bench:
        (kept,) = bench.start("kept")
        await bench.attempt(True, 0, *(f"h{n}" for n in range(100)))
        assert len(bench.hosts._hosts) <= 11
        assert bench.hosts.host("h99").health is Health.HEALTHY
        await kept.end(True)
        assert bench.hosts.host("kept").health is Health.HEALTHY
        assert bench.hosts.host("h0").health is Health.NEW
