"""What a study has measured so far: a CSV file with a row for each point, and the conditions beside it as JSON.

Opened again, a study goes on with the points that are missing, under the same conditions only.
"""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from common.errors import SmsimError, UsageError

CONDITIONS = "conditions.json"


class NotWritten(SmsimError):
    """A file of the study can't be written: the disk is full, or a folder stands in its place."""


class Row(Protocol):
    """One point of a study, a msgspec struct of plain values."""

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from the other points."""

    def columns(self) -> dict[str, object]:
        """Its fields, and what follows from them."""


R = TypeVar("R", bound=Row)


class Records(Generic[R]):
    """The rows of one study in `folder`: `<name>.csv`, and the conditions in `conditions.json`, under the same name.

    To the conditions it adds when the first point was measured, and when the last: `measured_at`, `measured_until`.
    `fresh` starts over. Raises UsageError if the folder can't be used, or holds what was measured otherwise.
    """

    def __init__(
        self, folder: Path, name: str, kind: type[R], conditions: dict[str, Any], fresh: bool
    ) -> None:
        self.csv = folder / f"{name}.csv"
        self._name = name
        self._conditions = conditions
        self.rows: list[R] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not fresh and self.csv.exists():
                self._check()
                self.rows = read_rows(self.csv, kind)
                self._conditions = conditions | _dates_of(read_conditions(self.csv))
            elif fresh:
                self.csv.unlink(missing_ok=True)
            self._write_conditions()
        except OSError as error:
            raise UsageError(f"{folder}: {error.strerror}: choose another --out") from None

    @property
    def measured(self) -> set[tuple[object, ...]]:
        """The keys of the points that are measured."""
        return {row.key for row in self.rows}

    def add(self, row: R) -> None:
        """Keeps a point that was measured now, on disk before this returns. Raises NotWritten."""
        # As it will be read again, so that what follows from it does not depend on who computes it.
        self.rows.append(msgspec.convert(_rounded(msgspec.to_builtins(row)), type(row)))
        columns = [_rounded(row.columns()) for row in self.rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(columns)
        date = today()
        with writing(self.csv.parent):
            if self._conditions.get("measured_until") != date:
                dates = {"measured_at": self._conditions.get("measured_at", date), "measured_until": date}
                self._conditions = self._conditions | dates
                self._write_conditions()
            replace_file(self.csv, text.getvalue())

    def _write_conditions(self) -> None:
        folder = self.csv.parent
        both = {**_conditions_in(folder), self._name: self._conditions}
        replace_file(folder / CONDITIONS, json.dumps(both, indent=2) + "\n")

    def _check(self) -> None:
        """Raises UsageError unless what is there was measured under the present conditions."""
        there = read_conditions(self.csv)
        for part in ("parameters", "machine", "versions"):
            now, then = self._conditions[part], there.get(part, {})
            for name in sorted({*now, *then}):
                if now.get(name) != then.get(name):
                    raise UsageError(
                        f"{self.csv} was measured with {name} {then.get(name)}, not {now.get(name)}:"
                        " choose another --out, or start over by --fresh"
                    )


def read_conditions(path: Path) -> dict[str, Any]:
    """The conditions of a CSV file of a study. Raises UsageError where there are none."""
    found = _conditions_in(path.parent).get(path.stem)
    if not isinstance(found, dict):
        raise UsageError(f"{path.parent / CONDITIONS} does not say how {path.name} was measured")
    return found


def read_rows(path: Path, kind: type[R]) -> list[R]:
    """The rows of a CSV file of a study. Raises UsageError if it is none."""
    try:
        with path.open(newline="") as file:
            rows = [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]
        return msgspec.convert(rows, list[kind], strict=False)  # type: ignore[valid-type]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{path} is no table of a study: {error}") from None


def _conditions_in(folder: Path) -> dict[str, Any]:
    """The conditions of all studies in a folder; none where there is no such file."""
    try:
        found = json.loads((folder / CONDITIONS).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _dates_of(conditions: dict[str, Any]) -> dict[str, Any]:
    return {name: conditions[name] for name in ("measured_at", "measured_until") if name in conditions}


def today() -> str:
    """The date, by UTC."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def _rounded(columns: dict[str, object]) -> dict[str, object]:
    """With six digits; counts and bytes are whole and stay."""
    return {name: float(f"{v:.6g}") if isinstance(v, float) else v for name, v in columns.items()}


def replace_file(path: Path, text: str) -> None:
    """Writes a file wholly or not at all."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(text)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Around what writes files there: raises NotWritten, which says in one line what went wrong, for OSError."""
    try:
        yield
    except OSError as error:
        raise NotWritten(f"{error.filename or place}: {error.strerror or error}") from None
