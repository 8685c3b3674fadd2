"""sender/providers/draws.py: random numbers that are always the same for the same message."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.settings import Distribution
from sender.providers.draws import Draws
from tests.providers import failures

SEQS = np.arange(100_000, dtype=np.int64)
EXPECTED_STDDEV = {
    Distribution.NORMAL: 0.4,
    Distribution.EXPONENTIAL: 2.0,
    Distribution.LOGNORMAL: 0.4,
    Distribution.CONSTANT: 0.0,
}


def times_s(
    distribution: Distribution, mean_s: float = 2.0, stddev_s: float = 0.4, seed: int = 1
) -> NDArray[np.float64]:
    return Draws(seed, SEQS, 1).times_us(distribution, mean_s, stddev_s) / 1e6


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("distribution", Distribution)
def test_mean_and_standard_deviation(distribution: Distribution, seed: int) -> None:
    """Over 100,000 consecutive messages both are within 3 % of the configured values."""
    times = times_s(distribution, seed=seed)
    assert times.mean() == pytest.approx(2.0, rel=0.03)
    assert times.std() == pytest.approx(EXPECTED_STDDEV[distribution], rel=0.03)
    assert times.min() >= 0


def test_the_normal_distribution_has_its_shape() -> None:
    """68.3 % lie within one standard deviation, 95.4 % within two; as many above the mean as below."""
    z = (times_s(Distribution.NORMAL) - 2.0) / 0.4
    assert np.mean(np.abs(z) < 1) == pytest.approx(0.683, abs=0.01)
    assert np.mean(np.abs(z) < 2) == pytest.approx(0.954, abs=0.005)
    assert np.mean(z > 0) == pytest.approx(0.5, abs=0.01)


def test_the_exponential_distribution_has_its_shape() -> None:
    """Half of the sends take less than ln 2 of the mean, 5 % more than three times the mean."""
    times = times_s(Distribution.EXPONENTIAL)
    assert np.median(times) == pytest.approx(2.0 * math.log(2), rel=0.03)
    assert np.mean(times > 6.0) == pytest.approx(math.exp(-3), abs=0.005)


def test_the_lognormal_distribution_has_its_shape() -> None:
    """Its logarithm is symmetric: the median is the mean over sqrt(1 + (stddev/mean)^2)."""
    assert np.median(times_s(Distribution.LOGNORMAL)) == pytest.approx(2.0 / math.sqrt(1.04), rel=0.01)


def test_negative_draws_count_as_no_time() -> None:
    """With a standard deviation as wide as the mean, the normal distribution is cut at 0: 16 % of all."""
    times = times_s(Distribution.NORMAL, stddev_s=2.0)
    assert times.min() == 0
    assert np.mean(times == 0) == pytest.approx(0.159, abs=0.01)


@pytest.mark.parametrize("distribution", Distribution)
def test_no_mean_is_no_time(distribution: Distribution) -> None:
    """MEAN_PROCESSING_TIME=0 sends immediately, with every distribution."""
    assert not times_s(distribution, mean_s=0, stddev_s=0).any()


@pytest.mark.parametrize("distribution", [Distribution.NORMAL, Distribution.LOGNORMAL])
def test_no_deviation_is_constant(distribution: Distribution) -> None:
    """PROCESSING_TIME_STDDEV=0 makes every send take the mean."""
    assert np.allclose(times_s(distribution, stddev_s=0), 2.0)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_failures(rate: float) -> None:
    """It is FAILURE_RATE, within the statistical error of 100,000 draws."""
    assert failures(1, SEQS, 1, rate).mean() == pytest.approx(rate, abs=0.006)


def test_none_fail_at_rate_0_and_all_at_rate_1() -> None:
    """The ends are exact."""
    assert not failures(1, SEQS, 1, 0.0).any()
    assert failures(1, SEQS, 1, 1.0).all()


def test_failures_do_not_hang_on_times() -> None:
    """Sends that fail take as long as the others."""
    failed = failures(1, SEQS, 1, 0.5)
    times = times_s(Distribution.NORMAL)
    assert times[failed].mean() == pytest.approx(times[~failed].mean(), rel=0.01)


@given(
    st.integers(0, 2**63 - 1),
    st.lists(st.integers(0, 2**40 - 1), min_size=1, max_size=30, unique=True),
    st.integers(1, 1000),
    st.sampled_from(Distribution),
    st.randoms(use_true_random=False),
)
def test_a_message_has_its_draw_however_it_is_sliced(seed, seqs, attempt, distribution, random) -> None:  # type: ignore[no-untyped-def]
    """Alone, in a batch, or in another order: the same (seed, seq, attempt) gives the same time and outcome."""

    def drawn(some: list[int]) -> dict[int, tuple[int, bool]]:
        array = np.array(some, np.int64)
        times = Draws(seed, array, attempt).times_us(distribution, 1.0, 0.1).tolist()
        return dict(
            zip(some, zip(times, failures(seed, array, attempt, 0.3).tolist(), strict=True), strict=True)
        )

    together = drawn(seqs)
    shuffled = random.sample(seqs, len(seqs))
    assert drawn(shuffled) == together
    assert {seq: drawn([seq])[seq] for seq in seqs} == together


@pytest.mark.parametrize(("seed", "attempt"), [(1, 2), (2, 1), (1, 257), (1 << 32, 1)])
def test_another_attempt_or_seed_is_another_draw(seed: int, attempt: int) -> None:
    """Outcomes and times of another attempt, or another seed, are uncorrelated with these."""
    ours, others = (Draws(*key).uniforms(1) for key in ((1, SEQS, 1), (seed, SEQS, attempt)))
    assert abs(np.corrcoef(ours, others)[0, 1]) < 0.02
    first, second = failures(1, SEQS, 1, 0.3), failures(seed, SEQS, attempt, 0.3)
    assert np.mean(first & second) == pytest.approx(0.09, abs=0.006)


@pytest.mark.parametrize("attempts", [(1, 1), (1, 2), (2, 1), (3, 1)])
@pytest.mark.parametrize("streams", [(1, 2), (2, 3), (1, 3)])
def test_streams_are_independent(attempts: tuple[int, int], streams: tuple[int, int]) -> None:
    """The numbers for time and outcome are uncorrelated, within an attempt and across attempts."""
    ours, others = (
        Draws(1, SEQS, attempt).uniforms(stream) for attempt, stream in zip(attempts, streams, strict=True)
    )
    assert abs(np.corrcoef(ours, others)[0, 1]) < 0.02


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40 - 2))
def test_uniforms_never_reach_0_or_1(seed: int, seq: int) -> None:
    """The logarithm of a draw is always finite."""
    u = Draws(seed, np.array([seq, seq + 1]), 1).uniforms(1)
    assert np.all((u > 0) & (u < 1))
    assert u[0] != u[1]
