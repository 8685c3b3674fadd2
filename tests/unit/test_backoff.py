"""common/backoff.py: pauses that double up to a longest one."""

import pytest

from common.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    """And begin with the first one again after a reset."""
    backoff = Backoff(0.1, 0.5)
    assert [backoff.next_s() for _ in range(5)] == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])
    assert backoff.begun

    backoff.reset()

    assert not backoff.begun
    assert backoff.next_s() == pytest.approx(0.1)


def test_jitter_shortens_a_pause_by_no_more_than_its_share() -> None:
    """Half of each pause may be cut off, never more."""
    backoff = Backoff(1.0, 1.0, jitter=0.5)
    pauses = [backoff.next_s() for _ in range(100)]
    assert min(pauses) >= 0.5
    assert max(pauses) <= 1.0
    assert len(set(pauses)) > 1
