"""Templates: the text of a message, with columns of a contact in braces."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.contacts.columns import listed, plain
from common.errors import UsageError
from common.sms.characters import is_blank

_TOKEN = re.compile(r"\{(?P<column>[^{}]*)\}|(?P<double>\{\{|\}\})|(?P<stray>[{}])")

# How other programs write a placeholder: all of it in the first group, the column in another. They may overlap, as in
# "50% off, %name%". `${price}` is ours: an amount in dollars.
_FOREIGN = re.compile(
    r"(?=((?<!\{)\{\{([^{}]+)\}\}(?!\})|\(\(([^()]+)\)\)|\[\[?([^\[\]]+)\]\]?|<<?([^<>]+)>>?"
    r"|%([^%]+)%|#([^#]+)#|\*\|([^|]+)\|\*|«([^«»]+)»|｛([^｛｝]+)｝|(?<!\w)__(\w+?)__(?!\w)|\$([^\W\d]\w*)))"  # noqa: RUF001
)
_OURS = re.compile(r"(?=(\{([^{}]+)\}))")
_MARK = re.compile(r"[{(\[<%#*«｛_$]")  # noqa: RUF001
# What a spreadsheet exports for a formula that failed, and for a column that is too narrow.
_FAILED_FORMULA = re.compile(r"#(?:N/A|REF!|VALUE!|NAME\?|DIV/0!|NULL!|NUM!|SPILL!|CALC!|#+)")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a template.

    Attributes:
        column: The column whose value follows the literal; None at the end.
    """

    literal: str
    column: str | None = None


class Template:
    """A text such as `Hi {name}`: each `{column}` becomes the value of that column; `{{` and `}}` are braces.

    Raises UsageError for a stray brace, for a column that is not in `columns`, and for a column in another program's
    kind of placeholder, such as `{{name}}` or `((name))`.
    """

    def __init__(self, text: str, columns: list[str]) -> None:
        self.text = text
        if foreign := _named(_FOREIGN, text, columns):
            raise UsageError(
                f"--text: {foreign.written} would be sent as it stands: write {{{foreign.column}}} for the value"
            )
        pieces = list(_pieces(text, columns))
        self._columns = columns
        self._used = [columns.index(piece.column) for piece in pieces if piece.column is not None]
        self._format = "%s".join(piece.literal.replace("%", "%%") for piece in pieces)

    def fill(self, cells: Sequence[str]) -> str:
        """The text for one contact, whose cells are in the order of the columns.

        Raises ValueError if a column that is used has no value.
        """
        values = tuple([cells[i].strip() for i in self._used])
        for value in values:
            if not value or value[0] == "#" or not value.isascii():
                self._check(values)
                break
        return self._format % values

    def _check(self, values: Sequence[str]) -> None:
        for i, value in zip(self._used, values, strict=True):
            if is_blank(value):
                raise ValueError(f"column {listed([self._columns[i]])} is empty")
            if _FAILED_FORMULA.fullmatch(value):
                raise ValueError(
                    f"column {listed([self._columns[i]])} holds {value[:8]}, an error of the spreadsheet"
                )


def has_placeholder(text: str, columns: list[str]) -> bool:
    """Whether a text that is sent as it is holds a placeholder for a column, in our form or in another program's."""
    if not _MARK.search(text):
        return False
    return any(_named(pattern, text, columns) for pattern in (_OURS, _FOREIGN))


@dataclass(frozen=True, slots=True)
class _Named:
    """A column that a text names in a placeholder.

    Attributes:
        written: The placeholder as it stands in the text.
        column: The column that it means.
    """

    written: str
    column: str


def _named(pattern: re.Pattern[str], text: str, columns: list[str]) -> _Named | None:
    by_name = {plain(column): column for column in columns if plain(column)}
    for written, *names in pattern.findall(text):
        name = next(filter(None, names)).partition("|")[0].rpartition(".")[2]  # {{contact.name|upper}}
        if column := by_name.get(plain(name)):
            return _Named(written, column)
    return None


def _pieces(text: str, columns: list[str]) -> Iterator[_Piece]:
    literal, end = "", 0
    for token in _TOKEN.finditer(text):
        literal += text[end : token.start()]
        end = token.end()
        if stray := token["stray"]:
            raise UsageError(f"--text: a lone {stray} at character {end}: write it as {stray * 2}")
        if token["double"]:
            literal += token["double"][0]
            continue
        column = token["column"]
        if not column or column not in columns:
            raise UsageError(f"--text: no column {{{column}}}: the file has {listed(columns)}")
        yield _Piece(literal, column)
        literal = ""
    yield _Piece(literal + text[end:])
