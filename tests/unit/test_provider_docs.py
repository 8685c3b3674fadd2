"""docs/providers.md shows the example as it stands in examples/provider, which the contract suite runs."""

import pytest

from tests.e2e.processes import ROOT


@pytest.mark.parametrize(("file", "language"), [("smsim_acme.py", "python"), ("pyproject.toml", "toml")])
def test_the_example_is_shown_as_it_runs(file: str, language: str) -> None:
    """The code in the page is the file, to the letter."""
    code = (ROOT / "examples/provider" / file).read_text()
    assert f"```{language}\n{code}```" in (ROOT / "docs/providers.md").read_text()


def test_the_example_is_short() -> None:
    """A provider takes some 40 lines: that is what the port is for."""
    lines = (ROOT / "examples/provider/smsim_acme.py").read_text().splitlines()
    assert sum(1 for line in lines if line.strip()) <= 40
