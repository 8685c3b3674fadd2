"""Shared by the commands of all studies: flags, optional packages, and the way they run."""

import argparse
import importlib.util
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from common.cli import EXIT_DONE, Parser, number, run_command, whole
from common.errors import UsageError

INSTALL = 'pip install ".[study]"'

T = TypeVar("T")


def require(*modules: str) -> None:
    """Raises UsageError if one of these modules is not installed; it names the missing ones and the remedy."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"{' and '.join(missing)} not installed: {INSTALL}, or make setup")


def study_parser(prog: str, description: str, out: Path) -> Parser:
    """A parser with `--out`, the file or folder of the results."""
    parser = Parser(prog, description)
    parser.add_argument("--out", type=Path, default=out, help="where the results go (default: %(default)s)")
    return parser


def add_rounds(parser: argparse.ArgumentParser, default: int) -> None:
    """The flag --rounds."""
    parser.add_argument("--rounds", type=whole(1), default=default, help="medians are over these rounds")


def add_scale(parser: argparse.ArgumentParser, lowest: float, what: str) -> None:
    """The flag --scale."""
    parser.add_argument("--scale", type=number(lowest, 100), default=1.0, help=f"multiplies {what}")


def run_study(prog: str, measure: Callable[[], Coroutine[Any, Any, T]], finish: Callable[[T], str]) -> int:
    """Measures, lets `finish` write the results, and prints what it returns. An error is one line on stderr."""

    async def run() -> int:
        print(finish(await measure()))
        return EXIT_DONE

    return run_command(prog, run)
