"""The rows of a contacts file: its delimiter, its columns, and the cells of each row."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOBase

from common.contacts.files import ContactsFile
from common.errors import UsageError
from common.sms.characters import cleaned, is_blank, named
from common.sms.numbers import is_like_a_number

# In the order in which they are tried, with their names.
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}

# The first line that Excel writes for itself and reads again. It is no row.
_SEP_LINE = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)
_LINE_END = re.compile(r"\r\n?|\n")
# A spreadsheet puts an apostrophe before a cell only.
_IN_SINGLE_QUOTES = re.compile(r"\s*['‘].*['’]\s*", re.DOTALL)  # noqa: RUF001

_ERRORS = {
    "unexpected end of data": "the quote that opens a cell is never closed",
    "expected after": "a quote within a quoted cell: write it twice",
    "field larger": "a cell of more than 131,072 characters: is its quote closed?",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes that a file keeps within.

    Attributes:
        line_chars: Most characters in a line, which is read at once.
    """

    line_chars: int = 1 << 20


LIMITS = Limits()


class Table:
    """The rows of a file with a header.

    Attributes:
        name: The name of the file in messages.
        delimiter: The character that separates cells.
        columns: The names of the columns, without those at the end that have no name.
    """

    def __init__(self, file: ContactsFile, delimiter: str, limits: Limits = LIMITS) -> None:
        """Reads the header. Raises UsageError if there is none."""
        self.name = file.name
        self.delimiter = delimiter
        self._file = file
        self._limits = limits
        self.columns = self._header()

    @classmethod
    def candidates(cls, file: ContactsFile, delimiter: str | None) -> list["Table"]:
        """The file with the delimiter given, or with that of a `sep=` line, or with each usual one, most columns first.

        Raises UsageError if it has no header.
        """
        if delimiter is None:
            with file.text() as text:
                delimiter = sep_line(text.readline(len('"sep=,"\r\n')))
        tables: list[Table] = []
        errors: list[UsageError] = []
        for candidate in DELIMITERS if delimiter is None else [delimiter]:
            try:
                tables.append(cls(file, candidate))
            except UsageError as error:
                errors.append(error)
        if not tables:
            raise errors[0]
        return sorted(tables, key=lambda table: -len(table.columns))

    @property
    def delimiter_name(self) -> str:
        """The delimiter in words."""
        return DELIMITERS.get(self.delimiter) or named(self.delimiter)

    def rows(self, key: int) -> Iterator[tuple[int, list[str]]]:
        """The rows after the header, blank ones too: the line on which each ends, and its cells as they are.

        `key` is the column that has a phone number in each row. Raises UsageError where a quote has swallowed rows.
        """
        rows = self._all_rows(key)
        next(row for row in rows if _has_content(row[1]))
        return rows

    def _header(self) -> list[str]:
        for _, cells in self._all_rows(None):
            if _has_content(cells):
                columns = [" ".join(cleaned(cell).split()) for cell in cells]
                if all(_IN_SINGLE_QUOTES.fullmatch(cell) for cell in cells):
                    raise UsageError(
                        f"{self.name}: its cells are in single quotes: put them in double quotes"
                    )
                while columns and not columns[-1]:
                    del columns[-1]
                return columns
        raise UsageError(
            f"{self.name}: the file is empty: it needs a header with a column named number or phone"
        )

    def _all_rows(self, key: int | None) -> Iterator[tuple[int, list[str]]]:
        last = 0
        with self._file.text() as text:
            rows = csv.reader(
                self._lines(text),
                delimiter=self.delimiter,
                skipinitialspace=self.delimiter != " ",
                strict=True,
            )
            try:
                for cells in rows:
                    line = rows.line_num
                    if line != last + 1 and self._holds_rows(cells, key):
                        raise UsageError(
                            f"{self._place(last + 1, line)}: a quoted cell holds what look like whole rows:"
                            f" close the quote in line {last + 1}"
                        )
                    if line > 1 or sep_line(self.delimiter.join(cells)) is None:
                        yield line, cells
                    last = line
            except csv.Error as error:
                reason = next((words for part, words in _ERRORS.items() if part in str(error)), str(error))
                raise UsageError(f"{self._place(last + 1, rows.line_num)}: {reason}") from None

    def _lines(self, text: TextIOBase) -> Iterator[str]:
        most, number = self._limits.line_chars, 0
        while line := text.readline(most):
            number += 1
            if len(line) == most:
                what = f"{most:,} or more characters: is it a CSV file?"
                raise UsageError(f"{self._place(number, number)}: {what}")
            yield line

    def _holds_rows(self, cells: list[str], key: int | None) -> bool:
        """Whether the lines of one row look like rows themselves: more than one has a phone number in its column."""
        lines = [line.split(self.delimiter) for line in _LINE_END.split(self.delimiter.join(cells))]
        if key is None:  # a header: none of its lines has a number
            return any(is_like_a_number(cell) for line in lines[1:] for cell in line)
        alone = len(cells) == 1
        found = [line for line in lines if len(line) > key and (len(line) > 1 or alone)]
        return sum(is_like_a_number(line[key]) for line in found) > 1

    def _place(self, first: int, last: int) -> str:
        return f"{self.name}: line {first}" + (f" to line {last}" if last > first else "")


def sep_line(line: str) -> str | None:
    """The delimiter in a line such as `sep=;`, if it is one."""
    found = _SEP_LINE.fullmatch(line)
    return found[1] if found else None


def _has_content(cells: list[str]) -> bool:
    return not all(map(is_blank, cells))
