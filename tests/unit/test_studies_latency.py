"""The moments that producers and senders note, as a study reads them."""

from pathlib import Path

import numpy as np

from studies.latency.noting import due_s, noted_s


def test_messages_are_due_evenly_from_the_begin(tmp_path: Path) -> None:
    """By the clock reading that the producer left, exactly."""
    file = tmp_path / "due"
    file.write_text(repr(1234.0625))
    assert due_s(file, 4, 8).tolist() == [1234.0625, 1234.1875, 1234.3125, 1234.4375]


def test_noted_moments_come_by_seq_with_repeats(tmp_path: Path) -> None:
    """A message that was settled twice, or not at all, shows; another run's do not."""
    file = tmp_path / "noted.npz"
    noted = np.array([[2, 0, 2], [3_000_000_000, 1_000_000_000, 2_000_000_000]])
    np.savez(file, mine=noted, other=np.array([[7], [7]]))
    seqs, at_s = noted_s(file, "mine")
    assert seqs.tolist() == [0, 2, 2]
    assert at_s.tolist() == [1, 3, 2]
    assert noted_s(file, "absent")[0].size == 0
