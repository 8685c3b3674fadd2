"""common/web/rate.py: how much comes in, and when the rest may."""

import random

import pytest

from common.web.keys.port import ALL_SCOPES, Caller
from common.web.problems import Problem
from common.web.rate import MOST_CALLERS, RateLimiter

A, B = (Caller(name, name, ALL_SCOPES) for name in "ab")


class Bench:
    """RateLimiter on a clock that the test moves."""

    def __init__(self, total: float | None = None, key: float | None = None) -> None:
        self.now = 1000.0
        self.limits = RateLimiter(total, key, lambda: self.now)

    def passes(self, caller: Caller = A, messages: int = 1) -> bool:
        try:
            self.limits.take(caller, messages)
        except Problem as problem:
            self.problem = problem
            return False
        return True

    def passed(self, caller: Caller = A, of: int = 1000) -> int:
        return sum(self.passes(caller) for _ in range(of))

    @property
    def retry_after_s(self) -> int:
        assert self.problem.status == 429
        return int(self.problem.headers["Retry-After"])


def test_no_limit_is_no_limit() -> None:
    """Nothing is counted."""
    assert Bench().passes(messages=10**9)
    assert Bench().passes(messages=10**9)


@pytest.mark.parametrize("rates", [(10.0, None), (None, 10.0), (10.0, 10.0), (10.0, 1e6)], ids=str)
def test_one_second_s_worth_passes_at_once_and_then_the_rate(
    rates: tuple[float | None, float | None],
) -> None:
    """10 at once, then 10 a second; an hour's silence is worth no more than one second's."""
    bench = Bench(*rates)
    assert bench.passed() == 10
    for pause_s, passed in ((0.5, 5), (0.1, 1), (3600, 10), (1, 10)):
        bench.now += pause_s
        assert bench.passed() == passed


def test_callers_have_a_bucket_each_and_share_that_of_all() -> None:
    """One caller that takes all it may leaves the others theirs, within what all may have."""
    bench = Bench(total=15, key=10)
    assert (bench.passed(A), bench.passed(B)) == (10, 5)
    assert "all callers together may send 15 messages/s" in bench.problem.detail
    assert not bench.passes(A)
    bench = Bench(total=1000, key=10)
    assert (bench.passed(A), bench.passed(B)) == (10, 10)
    assert "an API key may send 10 messages/s" in bench.problem.detail


def test_what_is_refused_counts_nowhere() -> None:
    """A caller that goes on asking beyond its own limit uses up nothing of what all share."""
    bench = Bench(total=20, key=10)
    assert bench.passed(A, of=10_000) == 10
    assert bench.passed(B) == 10


def test_a_batch_larger_than_a_burst_passes_and_leaves_a_debt() -> None:
    """100,000 at 1,000/s pass once; what comes next waits until they are paid for, and is told so."""
    bench = Bench(key=1000)
    assert bench.passes(messages=100_000)
    assert not bench.passes()
    assert bench.retry_after_s == 100
    bench.now += 98.9
    assert not bench.passes()
    bench.now += 0.2
    assert bench.passes(messages=100_000)


def test_a_batch_waits_no_longer_than_single_messages() -> None:
    """Beside a caller that takes every single token as it comes, a batch passes when its turn is."""
    bench = Bench(total=100)
    bench.passed()
    for _ in range(10):
        bench.now += 0.0101
        assert bench.passes()
    bench.now += 0.0101
    assert bench.passes(B, 5000)


@pytest.mark.parametrize("rate", [0.01, 0.7, 3.0, 1000.0])
def test_whoever_comes_again_after_retry_after_passes(rate: float) -> None:
    """And a second earlier would not have, where it is told to wait for longer."""
    chance = random.Random(1)
    bench = Bench(key=rate)
    for _ in range(100):
        if not bench.passes(messages=(messages := chance.randint(1, 5000))):
            told_s = bench.retry_after_s
            early, at = told_s - 1.001, bench.now
            if early > 0:
                bench.now = at + early
                assert not bench.passes(messages=messages)
            bench.now = at + told_s + 1e-6
            assert bench.passes(messages=messages)


@pytest.mark.parametrize("rate", [0.5, 20.0])
def test_no_window_has_more_than_rate_burst_and_one_request(rate: float) -> None:
    """Whatever is asked, and however long the pauses are."""
    chance, bench, most = random.Random(2), Bench(key=rate), 30
    passed: list[tuple[float, int]] = []
    for _ in range(2000):
        messages = chance.randint(1, most)
        if bench.passes(messages=messages):
            passed.append((bench.now, messages))
        bench.now += chance.random() * chance.choice([0.1, 1, most / rate])
    assert len(passed) > 20
    for k, (begins, _) in enumerate(passed):
        total = 0
        for ends, messages in passed[k:]:
            total += messages
            assert total <= rate * (ends - begins) + max(1, rate) + most


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    """And holds nobody up afterwards."""
    bench = Bench(key=10)
    bench.passed()
    bench.now -= 5
    assert not bench.passes()
    bench.now += 0.11
    assert bench.passes()


def test_callers_that_are_gone_take_no_memory() -> None:
    """Of more callers than there is room for, those who came last are known."""
    bench = Bench(key=1)
    for k in range(MOST_CALLERS + 500):
        assert bench.passes(Caller(str(k), "", ALL_SCOPES))
    assert len(bench.limits._callers) == MOST_CALLERS
    assert not bench.passes(Caller(str(MOST_CALLERS + 499), "", ALL_SCOPES))


def test_no_messages_are_no_request() -> None:
    """An empty one is for others to refuse."""
    bench = Bench(key=1)
    bench.passed()
    assert bench.passes(messages=0)
