"""Which column of a contacts file has the phone numbers, and which has the texts. A choice is never made silently."""

import re
from collections import Counter
from collections.abc import Iterable

from common.errors import UsageError

_WHOSE = (
    "home|work|business|office|company|primary|main|other|contact|customer|client|personal|private|recipient"
)
# Names without spaces, punctuation and case: "Phone Number", "mobile_no.", "Cell phone 2", "Phone 1 - Value".
_NUMBER_NAME = re.compile(
    rf"(?:{_WHOSE})?(?:(?:mobile|cell|tele)?phone|mobile|cell|tel|landline|sms)(?:number|num|no|nr)?\d?(?:value)?"
    rf"|(?:{_WHOSE})?number|msisdn"
)
_TEXT_NAMES = {"text", "message", "body"}
_MOST_LISTED = 20
_MOST_LISTED_CHARS = 40


def number_column(columns: list[str], named: str | None) -> int | None:
    """The position of the column `named`, else of the one whose name is usual for phone numbers; None if there is none.

    Raises UsageError if several have such names.
    """
    if named in columns:
        return columns.index(named)
    if named is not None:
        found = [i for i, column in enumerate(columns) if plain(column) == plain(named)]
    else:
        found = [i for i, column in enumerate(columns) if _NUMBER_NAME.fullmatch(plain(column))]
    if len(found) > 1:
        refuse_repeated([columns[i] for i in found])
        names = listed((columns[i] for i in found), last=" and ")
        raise UsageError(f"columns {names} may all hold phone numbers: choose one with --number-column")
    return found[0] if found else None


def text_column(columns: list[str]) -> int:
    """The position of the column with the texts. Raises UsageError unless there is exactly one."""
    found = [i for i, column in enumerate(columns) if plain(column) in _TEXT_NAMES]
    if not found:
        raise UsageError("no text: give one with --text, or in a column named text or message")
    if len(found) > 1:
        names = listed((columns[i] for i in found), last=" and ")
        raise UsageError(f"columns {names} may all hold the text: name one in --text, in braces")
    return found[0]


def refuse_repeated(columns: list[str]) -> None:
    """Raises UsageError if two columns have one name."""
    twice = sorted(column for column, times in Counter(columns).items() if column and times > 1)
    if twice:
        raise UsageError(f"column {listed(twice)} is twice in the header")


def listed(columns: Iterable[str], last: str = ", ") -> str:
    """The names of columns in a message; not all of them if they are many or long."""
    names = [_cut(column) for column in columns if column]
    if len(names) > _MOST_LISTED:
        return ", ".join(names[:_MOST_LISTED]) + f" and {len(names) - _MOST_LISTED} more"
    return last.join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _cut(name: str) -> str:
    return name if len(name) <= _MOST_LISTED_CHARS else f"{name[:_MOST_LISTED_CHARS]}…"


def plain(name: str) -> str:
    """A name without what people write in different ways: spaces, punctuation, case."""
    return "".join(filter(str.isalnum, name)).lower()
