"""studies/: what becomes of the moments that were noted, and where the tables go."""

from pathlib import Path

import numpy as np
import pytest

from studies.latency.moments import due_s, settled_s
from studies.page import filled


def test_messages_are_due_evenly_from_the_begin(tmp_path: Path) -> None:
    """By the clock's reading that the producer left behind, exactly."""
    began = tmp_path / "began"
    began.write_text(repr(1234.0625))
    assert due_s(began, 4, 8).tolist() == [1234.0625, 1234.1875, 1234.3125, 1234.4375]


def test_settles_come_by_seq_and_as_often_as_they_were(tmp_path: Path) -> None:
    """A message that was settled twice, or not at all, shows; another run's do not."""
    file = tmp_path / "settled.npz"
    noted = np.array([[2, 0, 2], [3_000_000_000, 1_000_000_000, 2_000_000_000]])
    np.savez(file, mine=noted, other=np.array([[7], [7]]))
    seqs, at_s = settled_s(file, "mine")
    assert seqs.tolist() == [0, 2, 2]
    assert at_s.tolist() == [1, 3, 2]
    assert settled_s(file, "nobody's")[0].size == 0


def test_a_table_goes_into_its_place() -> None:
    """What stood there is replaced, what stands around it stays, and a page without the place is told."""
    page = "before\n<!-- one -->\nold\n<!-- end -->\nbetween\n<!-- two -->\nkept\n<!-- end -->\n"
    assert filled(page, "<!-- one -->", "<!-- end -->", r"| \1 |") == page.replace("old", r"| \1 |")
    for begin in "<!-- three -->", "<!-- end -->":
        with pytest.raises(ValueError, match=f"no {begin} … <!-- end --> in the page"):
            filled(page, begin, "<!-- end -->", "x")
