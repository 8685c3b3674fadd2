"""sender/providers/simulated.py: each send is reported once, in order, when its time is over."""

import asyncio
import itertools

import numpy as np
import pytest

from common.messages import Outcome
from common.settings import Distribution
from sender.providers.bulk import Sends
from sender.providers.draws import Draws
from sender.providers.profiles import Profile, Window
from sender.providers.simulated import SimulatedProvider, Wheel
from tests.providers import failures
from tests.waiting import eventually


class Reports:
    """Sends, and the reported ranges of positions, each with the time since the start in µs."""

    def __init__(self, count: int, first_seq: int = 0, attempt: int = 1, age_s: float = 0) -> None:
        self.ranges: list[tuple[int, int, float]] = []
        self._began_s = asyncio.get_running_loop().time()
        self.sends = Sends(
            "a-run",
            attempt,
            np.arange(first_seq, first_seq + count, dtype=np.int64),
            np.arange(count, dtype=np.int32),
            [],
            self._finished,
            age_s,
        )

    def _finished(self, sends: Sends, first: int, beyond: int) -> None:
        assert sends is self.sends
        self.ranges.append((first, beyond, 1e6 * (asyncio.get_running_loop().time() - self._began_s)))

    @property
    def reported(self) -> int:
        return sum(beyond - first for first, beyond, _ in self.ranges)

    @property
    def complete(self) -> bool:
        return self.reported == self.sends.seqs.size


def in_order_and_once(reports: Reports) -> bool:
    """The ranges cover all positions from the first, without a gap or an overlap, and none is empty."""
    borders = [0, *(beyond for _, beyond, _ in reports.ranges)]
    return [(a, b) for a, b, _ in reports.ranges] == list(itertools.pairwise(borders)) and all(
        b > a for a, b, _ in reports.ranges
    )


@pytest.mark.parametrize("distribution", Distribution)
async def test_all_sends_are_reported_once_in_order(distribution: Distribution) -> None:
    """With every distribution, each position is reported exactly once, from first to last."""
    provider = SimulatedProvider(Profile(mean_s=0.03, stddev_s=0.01, distribution=distribution), seed=1)
    groups = [Reports(count, first_seq=1000 * count) for count in (1, 2, 500, 3)]
    for reports in groups:
        provider.start(reports.sends)
    await eventually(lambda: all(reports.complete for reports in groups))
    assert all(in_order_and_once(reports) for reports in groups)


async def test_a_send_ends_when_its_time_is_over() -> None:
    """At most half a tick (and the resolution of the clock) early, and sorted by its time."""
    provider = SimulatedProvider(Profile(mean_s=0.1, stddev_s=0.03), seed=1)
    reports = Reports(2_000)
    provider.start(reports.sends)
    await eventually(lambda: reports.complete)
    times_us = reports.sends.times_us
    assert np.all(np.diff(times_us) >= 0)
    for _, beyond, at_us in reports.ranges:
        assert at_us >= times_us[beyond - 1] - 1_500


@pytest.mark.parametrize("attempt", [1, 2])
async def test_outcomes_and_times_are_the_draws_of_their_seqs(attempt: int) -> None:
    """Sorting by time keeps seq, owner, time and outcome of a message together."""
    provider = SimulatedProvider(Profile(mean_s=0.01, stddev_s=0.005, retry=0.3), seed=5)
    reports = Reports(1_000, first_seq=77, attempt=attempt)
    provider.start(reports.sends)
    await eventually(lambda: reports.complete)
    sends = reports.sends
    assert sorted(sends.seqs.tolist()) == list(range(77, 1_077))
    assert np.array_equal(sends.owners, sends.seqs - 77)
    wanted = Draws(5, sends.seqs, attempt).times_us(Distribution.NORMAL, 0.01, 0.005)
    assert np.array_equal(sends.times_us, wanted)
    failed = failures(5, sends.seqs, attempt, 0.3)
    assert np.array_equal(sends.outcomes, np.where(failed, Outcome.RETRY, Outcome.SENT))


async def test_the_wait_asked_for_goes_with_its_message() -> None:
    """Sorting by time keeps the wait beside the outcome; a profile that throttles no send has no waits."""
    profile = Profile(mean_s=0.01, stddev_s=0.005, throttled=0.3, retry=0.1, retry_after_s=4)
    provider, reports = SimulatedProvider(profile, seed=5), Reports(1_000)
    provider.start(reports.sends)
    sends = reports.sends
    plays = profile.play(5, sends.seqs, 1, 0)
    assert plays.retry_after_s is not None
    assert 0 < np.count_nonzero(plays.retry_after_s) < np.count_nonzero(plays.outcomes == Outcome.RETRY)
    assert sends.retry_after_s is not None
    assert np.array_equal(sends.retry_after_s, plays.retry_after_s)
    assert np.array_equal(sends.outcomes, plays.outcomes)
    assert np.array_equal(sends.times_us, plays.times_us)
    await provider.close()
    none_asked = Reports(10)
    SimulatedProvider(Profile(mean_s=0), seed=5).start(none_asked.sends)
    assert none_asked.sends.retry_after_s is None


async def test_a_window_is_chosen_by_the_age_of_the_run() -> None:
    """Sends that begin inside it fail, those before and after don't."""
    profile = Profile(mean_s=0, windows=(Window(from_s=10, to_s=20, failed=1),))
    provider = SimulatedProvider(profile, seed=1)
    for age_s, outcome in ((0, Outcome.SENT), (10, Outcome.FAILED), (20, Outcome.SENT)):
        reports = Reports(10, age_s=age_s)
        provider.start(reports.sends)
        assert reports.complete
        assert set(reports.sends.outcomes.tolist()) == {outcome}


async def test_no_time_at_all_is_reported_at_once() -> None:
    """With a mean of 0 all sends are reported before `start` returns, in one range."""
    provider = SimulatedProvider(Profile(mean_s=0), seed=1)
    reports = Reports(100)
    provider.start(reports.sends)
    assert [(first, beyond) for first, beyond, _ in reports.ranges] == [(0, 100)]


async def test_those_that_take_no_time_do_not_wait_for_the_others() -> None:
    """Where the distribution is cut at 0, sends that take no time end immediately, and the others later."""
    provider = SimulatedProvider(Profile(mean_s=0.02, stddev_s=0.02), seed=1)
    reports = Reports(1_000)
    provider.start(reports.sends)
    zeros = int(np.count_nonzero(reports.sends.times_us == 0))
    assert 0 < zeros < 1_000
    assert reports.reported == zeros
    await eventually(lambda: reports.complete)
    assert in_order_and_once(reports)


async def test_groups_that_come_later_join_the_wheel() -> None:
    """A wheel takes further sends while it runs, and after it has stopped for lack of sends."""
    provider = SimulatedProvider(Profile(mean_s=0.01, stddev_s=0.002), seed=1)
    for _ in range(3):
        first, second = Reports(50), Reports(50, first_seq=50)
        provider.start(first.sends)
        await eventually(lambda first=first: first.reported > 0)  # type: ignore[misc]
        provider.start(second.sends)
        await eventually(lambda first=first, second=second: first.complete and second.complete)  # type: ignore[misc]
        assert in_order_and_once(first)
        assert in_order_and_once(second)


async def test_nothing_is_reported_after_close() -> None:
    """Sends in flight are abandoned: another provider with the same times has reported all, and this one none."""
    profile = Profile(mean_s=0.02, distribution=Distribution.EXPONENTIAL)
    closed, other = (SimulatedProvider(profile, seed=1) for _ in range(2))
    given_up, through = Reports(100), Reports(100)
    closed.start(given_up.sends)
    other.start(through.sends)
    await closed.close()
    await eventually(lambda: through.complete)
    assert given_up.ranges == []


async def test_sends_started_after_close_are_not_reported() -> None:
    """Not even sends that take no time."""
    provider = SimulatedProvider(Profile(mean_s=0), seed=1)
    await provider.close()
    reports = Reports(10)
    provider.start(reports.sends)
    assert reports.ranges == []


async def test_runs_without_a_seed_differ() -> None:
    """Without SEED each provider draws one."""
    first, second = Reports(100), Reports(100)
    for reports in (first, second):
        provider = SimulatedProvider(Profile(mean_s=1))
        provider.start(reports.sends)
        await provider.close()
    assert not np.array_equal(first.sends.times_us, second.sends.times_us)


async def test_a_wheel_reports_a_tick_together() -> None:
    """Sends that end in the same tick are reported as one range, which makes it fast."""
    wheel = Wheel(0.005)
    reports = Reports(10_000)
    reports.sends.times_us = np.sort(np.arange(10_000, dtype=np.int64) % 20_000 + 1)
    wheel.add(reports.sends)
    await eventually(lambda: reports.complete)
    assert in_order_and_once(reports)
    assert len(reports.ranges) <= 10_000 // 5_000 + 2
