"""A benchmark's results are kept; where there are none, a line says why and nothing is overwritten."""

import json
from pathlib import Path
from typing import Any

import pytest

from studies.command import measured_into
from studies.process import BenchmarkFailed


async def measured() -> dict[str, Any]:
    return {"figures": [1, 2]}


async def failed() -> dict[str, Any]:
    raise BenchmarkFailed("a sender ended with 1")


def test_results_are_given_and_kept(tmp_path: Path) -> None:
    """In a folder that is made where need be."""
    path = tmp_path / "results" / "latest.json"
    assert measured_into(path, "studies.bench", measured()) == {"figures": [1, 2]}
    assert json.loads(path.read_text()) == {"figures": [1, 2]}


def test_a_figure_that_cannot_be_had(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit 1, and the results of last time stay."""
    path = tmp_path / "latest.json"
    path.write_text("last time's")
    with pytest.raises(SystemExit) as ending:
        measured_into(path, "studies.bench", failed())
    assert ending.value.code == 1
    assert capsys.readouterr().err == "studies.bench: a sender ended with 1\n"
    assert path.read_text() == "last time's"
