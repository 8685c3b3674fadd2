"""Messages to the contacts of a CSV file, streamed: one pass checks every row before anything is published."""

import csv
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
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
class BadRow:
    """A row that gives no message: the line it ends on, and why; the reason quotes nothing of the row."""

    line: int
    reason: str


class ContactsSource:
    """The good rows of a CSV file with a header; bad ones have no seq."""

    NAME = "csv"

    def __init__(self, path: Path, template: Template, number_column: str, sha256: str, count: int) -> None:
        self.count = count
        self.sha256 = sha256
        self._path = path
        self._template = template
        self._number_column = number_column

    @classmethod
    def open(cls, path: Path, text: str | None) -> tuple["ContactsSource", list[BadRow]]:
        """Checks the whole file. Raises UsageError if it can't be read or no row of it is good."""
        try:
            with path.open("rb") as binary:
                sha256 = hashlib.file_digest(binary, "sha256").hexdigest()
            columns = _header(path)
        except OSError as error:
            raise UsageError(f"{path}: can't be read: {error.strerror}") from None
        number_column = next((c for c in columns if c.lower() in NUMBER_COLUMNS), None)
        if number_column is None:
            raise UsageError(f"{path}: no column named number or phone; it has {', '.join(columns)}")
        if text is None:
            text = next((f"{{{c}}}" for c in columns if c.lower() in TEXT_COLUMNS), DEFAULT_TEXT)
        template = Template(text, columns)
        count, bad = 0, []
        for row in _rows(path, template, number_column):
            if isinstance(row, BadRow):
                bad.append(row)
            else:
                count += 1
        if count == 0:
            first = f": line {bad[0].line}: {bad[0].reason}" if bad else ": it has no rows"
            raise UsageError(f"{path}: no contact to send to{first}")
        return cls(path, template, number_column, sha256, count), bad

    def recipe(self, batch_size: int, lane: Lane) -> Recipe:
        return Recipe(
            source=self.NAME,
            count=self.count,
            batch_size=batch_size,
            lane=lane,
            path=str(self._path.resolve()),
            sha256=self.sha256,
            text=self._template.text,
        )

    def messages(self, first: int) -> Iterator[Message]:
        seq = 0
        for row in _rows(self._path, self._template, self._number_column):
            if isinstance(row, BadRow):
                continue
            if seq >= first:
                number, message_text = row
                yield Message(seq=seq, to=number, text=message_text)
            seq += 1
            if seq == self.count:
                return
        raise UsageError(
            f"{self._path} was changed while it was being published: put it back as it was, then resume"
        )


def _header(path: Path) -> list[str]:
    for _, row in _lines(path):
        columns = [cell.strip() for cell in row]
        twice = {c for c in columns if c and columns.count(c) > 1}
        if twice:
            raise UsageError(f"{path}: column {', '.join(sorted(twice))} stands twice in the header")
        return columns
    raise UsageError(f"{path}: the file is empty: it needs a header with a column named number or phone")


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line it ends on. A byte order mark, as Excel writes, is skipped."""
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
    """The first line that is no UTF-8. The reader can't tell, since it decodes a file many lines at a time."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    raise AssertionError("each line is UTF-8 where the file is not")


def _rows(path: Path, template: Template, number_column: str) -> Iterator[tuple[str, str] | BadRow]:
    """Number and text of each row, or what is wrong with it."""
    lines = _lines(path)
    columns = [cell.strip() for cell in next(lines)[1]]
    for line, row in lines:
        cells = [cell.strip() for cell in row] + [""] * (len(columns) - len(row))
        contact = dict(zip(columns, cells, strict=False))
        number = _PUNCTUATION.sub("", contact[number_column])
        text = template.fill(contact)
        if any(cell.strip() for cell in row[len(columns) :]):
            yield BadRow(line, "more cells than the header: quote what holds a comma")
        elif not number:
            yield BadRow(line, "no number")
        elif not is_e164(number):
            yield BadRow(line, "the number is no E.164 (+ and 7 to 15 digits, country code first)")
        elif not text:
            yield BadRow(line, "the text is empty")
        elif len(text) > MAX_TEXT_CHARS:
            yield BadRow(line, f"the text has {len(text)} characters, over the limit of {MAX_TEXT_CHARS}")
        else:
            yield number, text
