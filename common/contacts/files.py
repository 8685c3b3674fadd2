"""Messages to the contacts of a CSV file. One pass checks every row before anything is published."""

import csv
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from common.contacts.templates import Template
from common.errors import UsageError
from common.messages import MAX_TEXT_CHARS, Lane, Message, is_e164
from common.publishing.recipes import Recipe

NUMBER_COLUMNS = ("number", "phone")
TEXT_COLUMNS = ("text", "message")
DEFAULT_TEXT = "This is a test of the SMS alert system. No action is needed."

_PUNCTUATION = re.compile(r"[\s().\-/]")


@dataclass(frozen=True, slots=True)
class Row:
    """A row that makes a message: a number in E.164 form, and its text."""

    number: str
    text: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that makes no message.

    Attributes:
        line: The line on which it ends.
    """

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Form:
    """How the rows of a file become messages."""

    number_column: str
    template: Template


class ContactsSource:
    """The good rows of a CSV file with a header. Bad rows have no seq."""

    NAME = "csv"

    def __init__(self, path: Path, form: Form, sha256: str, count: int) -> None:
        self.count = count
        self.sha256 = sha256
        self._path = path
        self._form = form

    @classmethod
    def open(cls, path: Path, text: str | None) -> tuple["ContactsSource", list[BadRow]]:
        """Checks the whole file. Raises UsageError if it can't be read or has no good row."""
        try:
            with path.open("rb") as binary:
                sha256 = hashlib.file_digest(binary, "sha256").hexdigest()
            columns = _header(path)
        except OSError as error:
            raise UsageError(f"{path}: can't be read: {error.strerror}") from None
        form = _form(path, columns, text)
        count, bad = 0, []
        for row in _rows(path, form):
            if isinstance(row, BadRow):
                bad.append(row)
            else:
                count += 1
        if count == 0:
            first = f": line {bad[0].line}: {bad[0].reason}" if bad else ": it has no rows"
            raise UsageError(f"{path}: no contact to send to{first}")
        return cls(path, form, sha256, count), bad

    def recipe(self, batch_size: int, lane: Lane) -> Recipe:
        return Recipe(
            source=self.NAME,
            count=self.count,
            batch_size=batch_size,
            lane=lane,
            path=str(self._path.resolve()),
            sha256=self.sha256,
            text=self._form.template.text,
        )

    def messages(self, first: int) -> Iterator[Message]:
        good = (row for row in _rows(self._path, self._form) if isinstance(row, Row))
        seq = -1
        for seq, row in enumerate(islice(good, self.count)):
            if seq >= first:
                yield Message(seq=seq, to=row.number, text=row.text)
        if seq + 1 == self.count:
            return
        raise UsageError(f"{self._path} was changed while it was being published: restore it, then resume")


def _form(path: Path, columns: list[str], text: str | None) -> Form:
    """How to read the rows: with the text given, that of a text column, or the default text."""
    number_column = next((c for c in columns if c.lower() in NUMBER_COLUMNS), None)
    if number_column is None:
        raise UsageError(f"{path}: no column named number or phone; it has {', '.join(columns)}")
    if text is None:
        text = next((f"{{{c}}}" for c in columns if c.lower() in TEXT_COLUMNS), DEFAULT_TEXT)
    return Form(number_column, Template(text, columns))


def _header(path: Path) -> list[str]:
    for _, row in _lines(path):
        columns = [cell.strip() for cell in row]
        twice = {c for c in columns if c and columns.count(c) > 1}
        if twice:
            raise UsageError(f"{path}: column {', '.join(sorted(twice))} is twice in the header")
        return columns
    raise UsageError(f"{path}: the file is empty: it needs a header with a column named number or phone")


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line on which it ends. Skips a byte order mark, as Excel writes."""
    try:
        file = path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from None
    with file:
        reader = csv.reader(file, strict=True)
        try:
            for row in reader:
                if any(cell.strip() for cell in row):
                    yield reader.line_num, row
        except UnicodeDecodeError:
            raise UsageError(f"{path}: line {_not_utf8(path)}: not UTF-8: save the file as UTF-8") from None
        except csv.Error as error:
            raise UsageError(f"{path}: line {reader.line_num}: {error}") from None


def _not_utf8(path: Path) -> int:
    """The first line that is not UTF-8. The reader does not know it, since it decodes many lines at a time."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    raise AssertionError("each line is UTF-8 where the file is not")


def _rows(path: Path, form: Form) -> Iterator[Row | BadRow]:
    lines = _lines(path)
    columns = [cell.strip() for cell in next(lines)[1]]
    for line, cells in lines:
        reason = ""
        if any(cell.strip() for cell in cells[len(columns) :]):
            reason = "more cells than the header: quote what holds a comma"
        row = _row(columns, cells, form)
        if reason := reason or _flaw(row):
            yield BadRow(line, reason)
        else:
            yield row


def _row(columns: list[str], cells: list[str], form: Form) -> Row:
    """The row as it is; cells that are missing are empty."""
    values = [cell.strip() for cell in cells] + [""] * (len(columns) - len(cells))
    contact = dict(zip(columns, values, strict=False))
    number = _PUNCTUATION.sub("", contact[form.number_column])
    return Row(number, form.template.fill(contact))


def _flaw(row: Row) -> str:
    """What is wrong with a row; empty if nothing is."""
    if not row.number:
        return "no number"
    if not is_e164(row.number):
        return "the number is not E.164 (+ and 7 to 15 digits, country code first)"
    if not row.text:
        return "the text is empty"
    if len(row.text) > MAX_TEXT_CHARS:
        return f"the text has {len(row.text)} characters, over the limit of {MAX_TEXT_CHARS}"
    return ""
