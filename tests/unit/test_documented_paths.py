"""Files, folders and functions that the documents name exist in the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# The changelog names files as they were.
PAGES.remove(ROOT / "CHANGELOG.md")
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
