"""What the rows of a contacts file come to: each a number and a text, or the reason why it makes no message."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from common.contacts.columns import number_column, refuse_repeated, text_column
from common.contacts.files import ContactsFile
from common.contacts.tables import Table
from common.contacts.templates import Template, has_placeholder
from common.errors import UsageError
from common.messages import MAX_TEXT_CHARS
from common.sms.characters import is_blank
from common.sms.numbers import INTERNATIONAL, NumberRules, normalise
from common.sms.texts import normal_text, text_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a contacts file is read. What is None is found out from the file.

    Attributes:
        text: The template of the texts; None: the texts are in a column.
        number_column: The name of the column with the phone numbers.
        delimiter: The character that separates cells.
        numbers: How numbers are read, and which are taken.
    """

    text: str | None = None
    number_column: str | None = None
    delimiter: str | None = None
    numbers: NumberRules = INTERNATIONAL


class Row(msgspec.Struct, frozen=True, gc=False):
    """A row that makes a message.

    Attributes:
        line: The line on which it ends, from 1.
        number: In E.164 form.
        unfilled: Whether the text, which comes from a column, holds a placeholder for another column.
    """

    line: int
    number: str
    text: str
    unfilled: bool = False


class BadRow(msgspec.Struct, frozen=True, gc=False):
    """A row that makes no message.

    Attributes:
        line: The line on which it ends, from 1.
        reason: Holds nothing of the row.
    """

    line: int
    reason: str


class ContactsReader:
    """The rows of a contacts file as messages, as often as wanted, a row at a time.

    Raises UsageError if it is no such file, or if its columns do not go with the options.
    """

    def __init__(self, file: ContactsFile, options: Options) -> None:
        self.file = file
        self.options = options
        self._numbers = options.numbers
        tables = Table.candidates(file, options.delimiter)
        with _about(file):
            self._table, self._number = _chosen(tables, options)
            self._text_column = text_column(self._table.columns) if options.text is None else None
        self._width = len(self._table.columns)
        self._template = Template(options.text or "", self._table.columns)

    def rows(self, but: Iterable[int] = (), skip: int = 0) -> Iterator[Row | BadRow]:
        """The rows that are not blank, in their order, except those that end on the lines of `but`, in order too.

        The first `skip` of these are passed over at a third of the time. Raises UsageError where the file can't be
        read on.
        """
        others = iter(but)
        passed_over = next(others, 0)
        for line, cells in self._table.rows(self._number):
            if line == passed_over:
                passed_over = next(others, 0)
                continue
            if skip and not all(map(is_blank, cells)):
                skip -= 1
                continue
            try:
                row = self._row(line, cells)
            except ValueError as error:
                yield BadRow(line, str(error))
            else:
                if row is not None:
                    yield row

    def _row(self, line: int, cells: list[str]) -> Row | None:
        """The message of a row; None if the row is blank. Raises ValueError with the reason if it is bad."""
        if len(cells) != self._width:
            self._fit(cells)
        written = cells[self._number]
        try:
            number = normalise(written, self._numbers)
        except ValueError as error:
            if not is_blank(written):
                raise ValueError(f"number: {error}") from None
            if all(map(is_blank, cells)):
                return None
            raise ValueError("no number") from None
        if self._text_column is None:
            return Row(line, number, _text(self._template.fill(cells)))
        text = _text(cells[self._text_column].strip())
        return Row(line, number, text, has_placeholder(text, self._table.columns))

    def _fit(self, cells: list[str]) -> None:
        """Adds the cells that a row lacks. Raises ValueError if it has more than the header has columns."""
        if not all(map(is_blank, cells[self._width :])):
            raise ValueError(f"more cells than the header: quote what holds a {self._table.delimiter_name}")
        cells += [""] * (self._width - len(cells))


def _chosen(tables: list[Table], options: Options) -> tuple[Table, int]:
    """The first table that has a column of numbers, and the position of that column."""
    for table in tables:
        number = number_column(table.columns, options.number_column)
        if number is not None:
            refuse_repeated(table.columns)
            return table, number
    if options.number_column is not None:
        raise UsageError(f"no column {options.number_column}, which --number-column names, in the header")
    raise UsageError(
        "no column named number or phone: the first row must be a header that has one;"
        " --number-column names another column, --delimiter what separates the columns"
    )


def _text(written: str) -> str:
    """The text as it is sent. Raises ValueError if it can't be sent."""
    text = normal_text(written)
    if error := text_error(text):
        raise ValueError(f"the text {error}")
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"the text has {len(text)} characters, over the limit of {MAX_TEXT_CHARS}")
    return text


@contextmanager
def _about(file: ContactsFile) -> Iterator[None]:
    """Puts the name of the file before an error."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{file.name}: {error}") from None
