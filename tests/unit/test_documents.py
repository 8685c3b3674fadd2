"""The documents name files, functions and settings that exist, and all settings."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# The changelog names files as they were.
PAGES.remove(ROOT / "CHANGELOG.md")
LONGEST_LINE = 120
CODE_FOLDERS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
# `sender/lane.py` or `sender/providers/`
PATH = re.compile(rf"`((?:{'|'.join([*CODE_FOLDERS, 'scripts', 'deploy'])})/[\w./-]*(?:\.\w+|/))`")
# What a study leaves behind is not in the repository.
GENERATED = ("studies/results/",)
# `sender/lane.py` `LaneWorker.run`
FUNCTION = re.compile(r"`([\w/]+\.py)` `([\w.]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_exist(page: Path) -> None:
    """Every path into a code folder, in backticks, is a file or folder."""
    named = [path for path in PATH.findall(page.read_text()) if not path.startswith(GENERATED)]
    missing = [path for path in named if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_functions_exist(page: Path) -> None:
    """A name that follows a path to a module is defined in that module."""
    missing = [
        f"{path} {name}"
        for path, name in FUNCTION.findall(page.read_text())
        if name not in _names_in(ROOT / path)
    ]
    assert missing == []


def test_the_walks_name_functions() -> None:
    """The check above finds the steps of docs/architecture.md."""
    assert len(FUNCTION.findall((ROOT / "docs/architecture.md").read_text())) > 20


@pytest.mark.parametrize("record", sorted(ROOT.glob("docs/adr/*.md")), ids=lambda record: record.name)
def test_decision_records_have_their_form(record: Path) -> None:
    """Context, decision, consequences, in lines of at most 120 columns."""
    lines = record.read_text().splitlines()
    sections = [line for line in lines if line.startswith("## ")]
    assert sections == ["## Context", "## Decision", "## Consequences"]
    assert [line for line in lines if len(line) > LONGEST_LINE] == []


def test_the_readme_lists_every_setting() -> None:
    """The table of the README has all variables of `Settings`, and no other."""
    page = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \|", page[page.index("## Settings") :], re.MULTILINE)
    assert {name for row in rows for name in _variables(row)} == _settings()


def test_env_example_has_every_setting() -> None:
    """`make env` writes a line for each variable of `Settings`."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert _settings() <= {line.partition("=")[0] for line in lines}


def _settings() -> set[str]:
    return {name.upper() for name in Settings.model_fields}


def _variables(row: str) -> Iterator[str]:
    """The variables of a row such as `REDIS_HOST`, `_PORT`, where `_PORT` replaces the last word."""
    base = ""
    for name in re.findall(r"[A-Z_]+", row):
        base = base or name.rpartition("_")[0]
        yield base + name if name.startswith("_") else name


def _names_in(module: Path) -> set[str]:
    """Functions and classes of a module, and methods as `Class.method`."""
    names = set()
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            inside = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
            names.update(f"{node.name}.{method.name}" for method in inside)
    return names
