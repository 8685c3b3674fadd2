"""studies/scale/: the figures and the table that points give."""

import json
from pathlib import Path

import pytest

from studies.scale import figures, table
from studies.scale.records import NotWritten
from tests.unit.scale_study import point, records_in

pytestmark = pytest.mark.usefixtures("bare_environment", "process_as_before")


def test_the_same_points_draw_the_same_figures(tmp_path: Path) -> None:
    """Three figures as SVG and PNG, byte by byte."""
    points = [point(n, version=version) for n in (1, 100, 10_000) for version in ("smsim", "plain")]
    first = figures.draw(points, tmp_path)
    once = [path.read_bytes() for path in first]
    assert [path.name for path in first] == [
        f"{name}.{suffix}" for name in ("throughput", "per-sender", "everyone") for suffix in ("png", "svg")
    ]
    assert once[0].startswith(b"\x89PNG")
    assert once[1].startswith(b"<?xml")
    assert [path.read_bytes() for path in figures.draw(points, tmp_path)] == once


def test_points_without_an_ideal_or_a_steady_phase_can_be_drawn(tmp_path: Path) -> None:
    """No send time, one point, none of the plain version."""
    assert len(figures.draw([point(5, steady_per_s=None, ideal_per_sender_per_s=None)], tmp_path)) == 6


def test_the_table_is_written_into_its_page(tmp_path: Path) -> None:
    """Between its markers, again and again; the rest of the page stays."""
    records = records_in(tmp_path)
    records.add(point(1_000_000))
    records.add(point(1_000_000, version="plain", steady_per_s=30_000.0))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: points.csv -->\nold\n<!-- end of table -->\nafter\n")
    for _ in range(2):
        assert table.main([str(records.csv), "--write", str(page)]) == 0
    text = page.read_text()
    assert (
        "| 1,000,000 | 900,000 | 90.0 % | 0.1 | 270 | 200 | 6.31 min | 30,000 | 3.0 % | 0.1 | 270 | 3.06 h |"
        in text
    )
    assert text.startswith("before\n<!--")
    assert text.endswith("<!-- end of table -->\nafter\n")
    assert "old" not in text
    assert text.count("sends of 1 s ± 0.1 s, of which 10 % fail") == 1


def test_a_page_without_the_markers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and a line that names them."""
    records = records_in(tmp_path)
    records.add(point(1))
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    assert table.main([str(records.csv), "--write", str(page)]) == 2
    assert "<!-- table: points.csv -->" in capsys.readouterr().err
    assert page.read_text() == "nothing\n"


def test_a_chart_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A folder stands in its place."""
    (tmp_path / "throughput.png").mkdir()
    with pytest.raises(NotWritten, match=r"throughput\.png: Is a directory$"):
        figures.draw([point(1)], tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_chart_on_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """The error that comes while writing has no file's name: the folder's is told."""
    (tmp_path / "throughput.png").symlink_to("/dev/full")
    with pytest.raises(NotWritten, match=f"^{tmp_path}: No space left on device$"):
        figures.draw([point(1)], tmp_path)


def test_a_page_that_cannot_be_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and one line."""
    records = records_in(tmp_path)
    records.add(point(1))
    page = tmp_path / "page.md"
    page.write_text("<!-- table: points.csv -->\nold\n<!-- end of table -->\n")
    # Beside the page the new one is written first.
    (tmp_path / ".page.md.new").symlink_to("/dev/full" if Path("/dev/full").exists() else tmp_path)
    assert table.main([str(records.csv), "--write", str(page)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("studies.scale.table: ")
    assert error.count("\n") == 1
    assert "old" in page.read_text()


def test_a_study_of_several_days_says_so(tmp_path: Path) -> None:
    """The first date and the last; one where they are the same."""
    records = records_in(tmp_path)
    records.add(point(1))
    file = tmp_path / "conditions.json"
    conditions = json.loads(file.read_text())
    for last, said in (
        ("2026-11-23", "Measured 2026-11-21 to 2026-11-23 on"),
        ("2026-11-21", "Measured 2026-11-21 on"),
    ):
        conditions["points"] |= {"measured_at": "2026-11-21", "measured_until": last}
        file.write_text(json.dumps(conditions))
        assert said in table.markdown(records.csv)
