"""The text of a message: a template with the columns of a contact in braces."""

import re

from common.errors import UsageError

_FIELD = re.compile(r"\{([^{}]*)\}|(\{\{)|(\}\})|([{}])")


class Template:
    """`Hi {name}`: each `{column}` stands for the contact's value; `{{` and `}}` are the braces themselves."""

    def __init__(self, text: str, columns: list[str]) -> None:
        self.text = text
        self._pieces: list[tuple[str, str | None]] = []
        end = 0
        for found in _FIELD.finditer(text):
            column, opened, closed, stray = found.groups()
            if stray:
                raise UsageError(
                    f"--text: a lone {stray} at character {found.start() + 1}: write it as {stray * 2}"
                )
            if column is not None and column not in columns:
                raise UsageError(f"--text: no column {{{column}}}: the file has {', '.join(columns)}")
            literal = text[end : found.start()] + (opened or closed or "")[:1]
            self._pieces.append((literal, column))
            end = found.end()
        self._pieces.append((text[end:], None))

    def fill(self, contact: dict[str, str]) -> str:
        """The text for one contact."""
        return "".join(
            literal + (contact[column] if column is not None else "") for literal, column in self._pieces
        )
