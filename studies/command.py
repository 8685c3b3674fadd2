"""Shared by the commands of all studies: flags, optional packages, and the way they run."""

import argparse
import importlib.util
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from common.cli import EXIT_DONE, Parser, number, run_command, whole
from common.errors import UsageError

if TYPE_CHECKING:
    from studies.record import Record

INSTALL = 'pip install ".[study]"'

T = TypeVar("T", bound="Record")


def require(*modules: str) -> None:
    """Raises UsageError if one of these modules is not installed; it names the missing ones and the remedy."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"{' and '.join(missing)} not installed: {INSTALL}, or make setup")


def study_parser(
    prog: str, description: str, *, out: Path, rounds: int | None = None, scales: str = ""
) -> Parser:
    """The parser of a study.

    Args:
        prog: The name of its module.
        description: A sentence for `--help`.
        out: The default of `--out`: the file or folder of the results.
        rounds: The default of `--rounds`; None for a study without rounds.
        scales: The quantities that `--scale` multiplies; empty for a study without a scale.
    """
    parser = Parser(prog, description)
    parser.add_argument("--out", type=Path, default=out, help="where the results go (default: %(default)s)")
    if rounds is not None:
        parser.add_argument("--rounds", type=whole(1), default=rounds, help="medians are over these rounds")
    if scales:
        parser.add_argument("--scale", type=number(0.001, 100), default=1.0, help=f"multiplies {scales}")
    return parser


def run_study(
    parser: Parser,
    measure: Callable[[argparse.Namespace], Coroutine[Any, Any, T]],
    markdown: Callable[[T], str],
    *,
    file: str = "",
    draw: Callable[[T, Path], object] = lambda *_: None,
) -> int:
    """Measures, writes the record and the charts, and prints the tables. An error is one line on stderr.

    Args:
        parser: Reads the arguments.
        measure: Makes the record.
        markdown: Makes the tables.
        file: The name of the record, if `--out` is a folder.
        draw: Writes further files, beside the record.
    """
    from studies.record import write  # it needs an optional package

    args = parser.parse_args()

    async def run() -> int:
        results, path = await measure(args), args.out / file
        write(path, results)
        draw(results, path)
        print(markdown(results))
        return EXIT_DONE

    return run_command(parser.prog, run)
