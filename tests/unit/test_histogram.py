"""common/ledger/histogram.py: percentiles off a log-bucketed histogram."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ledger.histogram import histogram, percentile_s

# 2.2 %, and what counting from 1 µs instead of 0 costs: nothing that shows above 0.2 ms.
RELATIVE, ABSOLUTE_S = 0.022, 0.022e-6
times = st.lists(st.integers(1, 10 * 86_400 * 10**6), min_size=1, max_size=200)


@given(times, st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_within_2_2_percent_of_the_exact_one(times_us: list[int], q: float) -> None:
    """Against NumPy's nearest rank over the times themselves, from 1 µs to ten days."""
    exact_s = float(np.percentile(times_us, 100 * q, method="inverted_cdf")) / 1e6
    found = percentile_s(histogram(np.array(times_us, np.int64)), q)
    assert found == pytest.approx(exact_s, rel=RELATIVE, abs=RELATIVE * exact_s + ABSOLUTE_S)


@given(times)
def test_a_histogram_counts_each_time_once(times_us: list[int]) -> None:
    """No time is left out, and no bucket is empty."""
    counts = histogram(np.array(times_us, np.int64))
    assert sum(counts.values()) == len(times_us)
    assert all(counts.values())


@given(times, times)
def test_histograms_add_up(some: list[int], others: list[int]) -> None:
    """The histogram of all is the sum of the histograms of the parts, as the ledger keeps it."""
    parts = Counter(histogram(np.array(some, np.int64))) + Counter(histogram(np.array(others, np.int64)))
    assert parts == histogram(np.array(some + others, np.int64))


def test_an_empty_histogram_has_no_percentiles() -> None:
    """None, not 0, where nothing was settled yet."""
    assert histogram(np.zeros(0, np.int64)) == {}
    assert percentile_s({}, 0.5) is None


def test_zero_times_are_kept_apart() -> None:
    """A send that took no time shows as well under a microsecond."""
    found = percentile_s(histogram(np.zeros(10, np.int64)), 0.5)
    assert found is not None
    assert found < 1e-6
