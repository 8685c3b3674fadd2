"""monitor/statistics.py: what is read off one snapshot, or two."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.counters import COUNTERS
from common.ledger.histogram import histogram
from common.ledger.values import SenderStatus, Snapshot
from common.statistics import statistics

OTHERS = [counter.name for counter in COUNTERS if counter.name != "published"]
TIMES = ["avg_time_s", "p50_s", "p95_s", "p99_s", "rate_per_s", "senders", "elapsed_s", "eta_s"]
START_US = 1_700_000_000_000_000


def at(seconds: float) -> int:
    return START_US + round(seconds * 1e6)


# 10 s into a run of 1,000: 500 published, 200 settled in 40 s of processing.
MIDDLE = Snapshot(
    published=500,
    sending=100,
    sent=180,
    failed=20,
    retried=7,
    ambiguous=3,
    rejected=2,
    total_time_us=40_000_000,
    total=1_000,
    started_us=START_US,
    last_settled_us=at(9.9),
    now_us=at(10),
    latency=histogram(np.full(200, 200_000)),
    senders={"a": SenderStatus(), "b": SenderStatus()},
)
SETTLED = Snapshot(
    published=100, sent=90, failed=10, total=100, started_us=START_US, last_settled_us=at(4), now_us=at(60)
)


def test_a_rate_is_never_below_zero() -> None:
    """Counters that begin anew, since the ledger has lost them, are no settles taken back."""
    after = Snapshot(published=10, sent=2, started_us=at(11), now_us=at(12))
    assert statistics(after, MIDDLE).rate_per_s == 0


def test_the_fields_are_those_of_the_design() -> None:
    """Just those that the monitor promises, in that order, and all of them JSON."""
    fields = statistics(MIDDLE).as_json()
    assert list(fields) == ["published", "queued", *OTHERS, *TIMES]
    assert json.loads(json.dumps(fields)) == fields


def test_the_counters_are_the_snapshots() -> None:
    """`queued` is what is neither being sent nor settled."""
    fields = statistics(MIDDLE).as_json()
    of_snapshot = {name: getattr(MIDDLE, name) for name in ("published", *OTHERS)}
    assert {name: fields[name] for name in of_snapshot} == of_snapshot
    assert fields["queued"] == 500 - 100 - 200
    assert fields["senders"] == 2


def test_the_mean_time_is_that_of_sent_and_failed() -> None:
    """40 s of processing over 200 settled messages."""
    assert statistics(MIDDLE).avg_time_s == 0.2


def test_percentiles_are_in_seconds() -> None:
    """All took 0.2 s."""
    stats = statistics(MIDDLE)
    assert [stats.p50_s, stats.p95_s, stats.p99_s] == pytest.approx([0.2] * 3, rel=0.022)


def test_the_rate_of_one_snapshot_is_the_mean_of_the_run() -> None:
    """200 in 10 s."""
    assert statistics(MIDDLE).rate_per_s == 20.0


def test_the_rate_of_two_snapshots_is_that_between_them() -> None:
    """150 more within 2 s, whatever was before."""
    before = Snapshot(published=500, sent=50, total=1_000, started_us=START_US, now_us=at(8))
    assert statistics(MIDDLE, before).rate_per_s == 75.0


def test_the_eta_counts_all_that_will_be_published() -> None:
    """800 of 1,000 to go at 20 a second, though only 500 are published."""
    assert statistics(MIDDLE).eta_s == 40.0


def test_the_eta_follows_the_present_rate() -> None:
    """At 75 a second it is nearer."""
    before = Snapshot(published=500, sent=50, total=1_000, started_us=START_US, now_us=at(8))
    assert statistics(MIDDLE, before).eta_s == pytest.approx(800 / 75, abs=0.1)


def test_there_is_no_eta_where_nothing_moves() -> None:
    """None, neither infinite nor 0."""
    before = Snapshot(published=500, sent=180, failed=20, total=1_000, started_us=START_US, now_us=at(8))
    stats = statistics(MIDDLE, before)
    assert (stats.rate_per_s, stats.eta_s) == (0.0, None)


def test_more_than_was_said_may_be_published() -> None:
    """A stranger's messages, which nobody announced, count for the ETA too."""
    now = Snapshot(published=300, sent=100, total=0, started_us=START_US, now_us=at(10))
    assert statistics(now).eta_s == 20.0


def test_a_settled_runs_clock_stands_still() -> None:
    """A minute later it still took 4 s, at 25 a second, with nothing to wait for."""
    stats = statistics(SETTLED)
    assert (stats.elapsed_s, stats.rate_per_s, stats.eta_s) == (4.0, 25.0, 0.0)


def test_the_clock_runs_on_while_messages_are_to_come() -> None:
    """All that is published is settled, but the producer has more."""
    now = Snapshot(
        published=100, sent=100, total=200, started_us=START_US, last_settled_us=at(4), now_us=at(60)
    )
    assert statistics(now).elapsed_s == 60.0


def test_canceled_messages_have_no_send_time() -> None:
    """The mean time is that of the messages that were sent or tried."""
    stats = statistics(Snapshot(published=4, sent=2, failed=2, canceled=2, total_time_us=600_000))
    assert stats.avg_time_s == 0.3


def test_nothing_at_all() -> None:
    """An empty ledger has no times, no rate, and divides by nothing."""
    stats = statistics(Snapshot())
    assert (stats.avg_time_s, stats.p50_s, stats.p95_s, stats.p99_s) == (None,) * 4
    assert (stats.rate_per_s, stats.elapsed_s) == (0.0, 0.0)


counters = st.integers(0, 5)
moments = st.sampled_from([0, START_US, START_US, at(1)])
snapshots = st.builds(
    Snapshot,
    published=counters,
    sent=counters,
    failed=counters,
    total=counters,
    started_us=moments,
    last_settled_us=moments,
    now_us=moments,
)


@given(snapshots, st.none() | snapshots)
def test_no_snapshots_divide_by_zero(now: Snapshot, before: Snapshot | None) -> None:
    """Not even two of the same moment, clocks that went back, or runs that never began."""
    stats = statistics(now, before)
    assert stats.elapsed_s >= 0
    assert stats.eta_s is None or stats.eta_s >= 0 or now.settled > max(now.total, now.published)
