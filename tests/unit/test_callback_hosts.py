"""Slots for receiving hosts: slow and dead hosts wait for one another, and others do not wait for them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.callbacks.hosts import Health, HostFailing, Hosts
from gateway.callbacks.limits import HostLimits
from tests.waiting import eventually

LIMITS = HostLimits(
    new_slots=4, healthy_slots=3, failing_slots=2, new_held=5, healthy_held=20, in_progress=2, hosts=1_000
)
SLOW_S = LIMITS.slow_s + 1


class Attempt:
    """An attempt that lasts until the test ends it.

    Attributes:
        name: Its host.
        has_slot: Whether it is in progress.
        is_refused: Whether its host began to fail before.
    """

    def __init__(self, bench: "Bench", name: str) -> None:
        self.name = name
        self.has_slot = False
        self.is_refused = False
        self._ends = asyncio.Event()
        self._bench = bench
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        hosts = self._bench.hosts
        host = hosts.host(self.name)
        try:
            async with hosts.slot(host):
                self.has_slot = True
                await self._ends.wait()
                if self._note is not None:
                    self._note()
        except HostFailing:
            self.is_refused = True

    _note: Callable[[], None] | None = None

    async def end(self, succeeded: bool | None, took_s: float = 0.0) -> None:
        """Ends the attempt; None: nothing was attempted."""
        hosts = self._bench.hosts
        if succeeded is not None:
            self._note = lambda: hosts.note(hosts.host(self.name), succeeded, took_s)
        self._ends.set()
        await self.task


class Bench:
    """Hosts, and attempts that go on."""

    def __init__(self, limits: HostLimits) -> None:
        self.hosts = Hosts(limits)
        self.attempts: list[Attempt] = []

    def start(self, name: str) -> Attempt | None:
        """Starts an attempt; None if the host's queue is full."""
        if not self.hosts.reserve(self.hosts.host(name)):
            return None
        self.attempts.append(Attempt(self, name))
        return self.attempts[-1]

    def start_all(self, *names: str) -> list[Attempt]:
        return [attempt for name in names if (attempt := self.start(name)) is not None]

    async def attempt(self, name: str, succeeded: bool, took_s: float = 0.0) -> None:
        """Makes one attempt."""
        (attempt,) = self.start_all(name)
        await attempt.end(succeeded, took_s)

    def health(self, name: str) -> Health:
        return self.hosts.host(name).health


@asynccontextmanager
async def benched(limits: HostLimits = LIMITS) -> AsyncIterator[Bench]:
    bench = Bench(limits)
    yield bench
    for attempt in bench.attempts:
        attempt.task.cancel()
    await asyncio.gather(*(attempt.task for attempt in bench.attempts), return_exceptions=True)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with benched() as bench:
        yield bench


async def in_progress(attempts: list[Attempt]) -> int:
    """How many have a slot, once all tasks had their turns."""
    for _ in range(20):
        await asyncio.sleep(0)
    return sum(attempt.has_slot and not attempt.task.done() for attempt in attempts)


async def test_a_healthy_host_waits_for_no_other_kind(bench: Bench) -> None:
    """However many new and failing hosts have attempts in progress."""
    await bench.attempt("healthy", True)
    for n in range(50):
        await bench.attempt(f"dead{n}", False, SLOW_S)
    hanging = bench.start_all(*(f"dead{n}" for n in range(50)), *(f"new{n}" for n in range(50)))
    assert await in_progress(hanging) == LIMITS.failing_slots + LIMITS.new_slots
    assert await in_progress(bench.start_all(*["healthy"] * 5)) == LIMITS.in_progress


async def test_a_new_host_waits_for_new_hosts_only(bench: Bench) -> None:
    """It gets a slot as soon as one of these ends."""
    for n in range(50):
        await bench.attempt(f"dead{n}", False, SLOW_S)
    bench.start_all(*(f"dead{n}" for n in range(50)))
    new = bench.start_all(*(f"new{n}" for n in range(LIMITS.new_slots + 1)))
    assert await in_progress(new) == LIMITS.new_slots
    await new[0].end(False, SLOW_S)
    await eventually(lambda: new[-1].has_slot)


async def test_hosts_take_turns(bench: Bench) -> None:
    """A host with many callbacks does not keep the others from their slots."""
    for name in ("a", "b", "c"):
        await bench.attempt(name, True)
    busy = bench.start_all(*["a"] * 10, *["b"] * 10)
    assert await in_progress(busy) == LIMITS.healthy_slots
    (other,) = bench.start_all("c")
    assert await in_progress([other]) == 0
    for attempt in [attempt for attempt in busy if attempt.has_slot][:2]:
        await attempt.end(True)
    await eventually(lambda: other.has_slot)


async def test_a_host_that_begins_to_fail_loses_its_queue(bench: Bench) -> None:
    """Then one callback at a time probes it. After a success, it has its queue again."""
    await bench.attempt("a", True)
    first, second, *others = bench.start_all(*["a"] * 10)
    assert await in_progress([first, second]) == 2
    await first.end(False, SLOW_S)
    await eventually(lambda: all(attempt.is_refused for attempt in others))
    assert bench.start("a") is None
    await second.end(False, SLOW_S)
    (probe,) = bench.start_all("a")
    assert await in_progress([probe]) == 1
    assert bench.start("a") is None
    await probe.end(True)
    assert bench.health("a") is Health.HEALTHY
    assert await in_progress(bench.start_all(*["a"] * 5)) == LIMITS.in_progress


async def test_a_host_that_fails_while_it_waits_for_a_slot(bench: Bench) -> None:
    """Its waiting attempt is refused, and takes no slot of healthy hosts."""
    for name in ("a", "b", "c"):
        await bench.attempt(name, True)
    first, *_ = busy = bench.start_all("a", "b", "b")
    assert await in_progress(busy) == LIMITS.healthy_slots
    waiting, other = bench.start_all("a", "c")
    assert await in_progress([waiting, other]) == 0
    await first.end(False, SLOW_S)
    await eventually(lambda: waiting.is_refused and other.has_slot)


async def test_prompt_failures_cost_nothing(bench: Bench) -> None:
    """A refused connection or a 500 leaves the host healthy. Nothing attempted leaves it as it was."""
    (attempt,) = bench.start_all("a")
    await attempt.end(None)
    assert bench.health("a") is Health.NEW
    await bench.attempt("a", False, LIMITS.slow_s / 2)
    assert bench.health("a") is Health.HEALTHY


async def test_a_new_host_gets_one_attempt_and_a_short_queue(bench: Bench) -> None:
    """Until it responds."""
    attempts = [bench.start("a") for _ in range(LIMITS.new_held + 1)]
    assert attempts.index(None) == LIMITS.new_held
    assert await in_progress(bench.attempts) == 1
    await bench.attempts[0].end(True)
    assert await in_progress(bench.attempts) == LIMITS.in_progress


async def test_a_cancelled_attempt_takes_no_slot(bench: Bench) -> None:
    """Its place in the queue is free again."""
    hanging = bench.start_all(*(f"h{n}" for n in range(LIMITS.new_slots)))
    cancelled, following = bench.start_all("cancelled", "following")
    await in_progress([cancelled])
    cancelled.task.cancel()
    await asyncio.gather(cancelled.task, return_exceptions=True)
    assert bench.hosts.host("cancelled").held == 0
    await hanging[0].end(True)
    await eventually(lambda: following.has_slot)


async def test_remembered_hosts_are_bounded() -> None:
    """Those not used for the longest time are forgotten, except those with attempts in progress."""
    async with benched(HostLimits(hosts=10)) as bench:
        (kept,) = bench.start_all("kept")
        for n in range(100):
            await bench.attempt(f"h{n}", True)
        assert len(bench.hosts._hosts) <= 11
        assert bench.health("h99") is Health.HEALTHY
        await kept.end(True)
        assert bench.health("kept") is Health.HEALTHY
        assert bench.health("h0") is Health.NEW
