"""Markdown tables, and the places in pages that hold them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from common.errors import UsageError

END = "<!-- end -->"

T = TypeVar("T")


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column of a table.

    Attributes:
        heading: The text above it.
        cell: Makes the cell of a row.
        left: Whether it is aligned to the left; figures are to the right.
    """

    heading: str
    cell: Callable[[T], str]
    left: bool = False


def table(columns: Sequence[Column[T]], rows: Iterable[T]) -> str:
    """A markdown table."""
    lines = [
        [column.heading for column in columns],
        ["---" if column.left else "---:" for column in columns],
        *([column.cell(row) for column in columns] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(page: Path, name: str, text: str) -> str:
    """The page's text with another between `<!-- name -->` and `<!-- end -->`. Raises UsageError if it has no place."""
    begin = f"<!-- {name} -->"
    before, *rest = page.read_text().split(begin)
    found, after = rest[0].partition(END)[1:] if len(rest) == 1 else ("", "")
    if not found:
        raise UsageError(f"{page}: no place {begin} … {END}")
    return f"{before}{begin}\n{text}\n{END}{after}"


def spread(median: float, values: Sequence[float]) -> str:
    """A median with the lowest and the highest value."""
    return f"**{median:,}** ({min(values):,} to {max(values):,})"


def duration(seconds: float, digits: int = 1) -> str:
    """A short duration; `digits` are those of seconds."""
    return f"{seconds:.{digits}f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"
