"""The pages of docs/ show what was recorded beside them, and every picture and link in them is there."""

import re
from pathlib import Path

import pytest

from studies import pages as capacity
from studies.scale import table

DOCS = Path(__file__).parent.parent.parent / "docs"
LINK = re.compile(r"\]\(([^)#\s]+)")


@pytest.mark.parametrize("page", sorted(DOCS.glob("**/*.md")), ids=lambda page: page.name)
def test_what_a_page_links_is_there(page: Path) -> None:
    """A study that was never recorded would leave its charts out."""
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    assert "Not recorded yet" not in page.read_text()


def test_capacity_shows_what_was_recorded() -> None:
    """The page is what `studies.pages` makes of the files beside it."""
    page = capacity.PAGE.read_text()
    assert capacity.with_tables(page) == page


@pytest.mark.parametrize("name", ["points.csv", "distributed.csv"])
def test_scaling_shows_what_was_recorded(name: str) -> None:
    """The page has the table of each study's points."""
    assert table.markdown(DOCS / "scaling" / name) in (DOCS / "scaling.md").read_text()
