"""Templates: the text of a message, with columns of a contact in braces."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from common.errors import UsageError

_TOKEN = re.compile(r"\{(?P<column>[^{}]*)\}|(?P<double>\{\{|\}\})|(?P<stray>[{}])")


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

    Raises UsageError for a stray brace, or a column that is not in `columns`.
    """

    def __init__(self, text: str, columns: list[str]) -> None:
        self.text = text
        self._pieces = list(_pieces(text, columns))

    def fill(self, contact: dict[str, str]) -> str:
        """The text for one contact."""
        return "".join(
            piece.literal if piece.column is None else piece.literal + contact[piece.column]
            for piece in self._pieces
        )


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
        if column not in columns:
            raise UsageError(f"--text: no column {{{column}}}: the file has {', '.join(columns)}")
        yield _Piece(literal, column)
        literal = ""
    yield _Piece(literal + text[end:])
