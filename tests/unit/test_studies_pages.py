"""The pages of docs/ show the recorded figures, and everything that they link to exists."""

import re
from pathlib import Path

import pytest

from common.errors import UsageError
from studies import DOCS
from studies.bench.chart import draw
from studies.bench.figures import BenchRecord
from studies.page import filled
from studies.pages import PLACES, Place
from studies.record import NotWritten, read, write_file

LINK = re.compile(r"\]\(([^)#\s]+)")


@pytest.mark.parametrize("page", sorted(DOCS.glob("**/*.md")), ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files that a page shows or links to are in the repository."""
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_a_page_shows_the_recorded_figures(place: Place[object]) -> None:
    """Each table is what `python -m studies.pages` makes of its record."""
    assert place.filled_page() == place.page.read_text()


def test_the_chart_shows_the_recorded_figures(tmp_path: Path) -> None:
    """The texts of the chart in docs/performance.md; its lines may differ between versions of Matplotlib."""

    def texts(svg: Path) -> list[str]:
        return [line.strip() for line in svg.read_text().splitlines() if "<text" in line]

    draw(read(DOCS / "performance.json", BenchRecord), tmp_path / "chart.json")
    assert texts(tmp_path / "chart.svg") == texts(DOCS / "performance.svg")


def test_a_table_replaces_the_one_in_its_place(tmp_path: Path) -> None:
    """The text around the place stays, and a page without the place is refused."""
    page = tmp_path / "page.md"
    text = "before\n<!-- one -->\nold\n<!-- end -->\nbetween\n<!-- two -->\nkept\n<!-- end -->\n"
    page.write_text(text)
    assert filled(page, "one", r"| \1 |") == text.replace("old", r"| \1 |")
    with pytest.raises(UsageError, match=r"page\.md: no place <!-- three --> … <!-- end -->"):
        filled(page, "three", "x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_file_that_cannot_be_written_stays(tmp_path: Path) -> None:
    """A full disk is one line, and leaves neither half a file nor a temporary one."""
    file = tmp_path / "page.md"
    file.write_text("old")
    (tmp_path / ".page.md.new").symlink_to("/dev/full")
    with pytest.raises(NotWritten, match=r"page\.md: can't be written: No space left on device"):
        write_file(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
    assert file.read_text() == "old"


def test_a_record_of_another_study_is_refused(tmp_path: Path) -> None:
    """The error names the file and the field."""
    file = tmp_path / "results.json"
    file.write_text('{"measured_at": "2026-11-21"}')
    with pytest.raises(UsageError, match=r"results\.json holds no such results: .*`machine`"):
        read(file, BenchRecord)
