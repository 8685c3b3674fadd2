"""Faults of JSON that msgspec does not name: a name that is twice in an object, and half of a surrogate pair.

Python's own reader is strict about the first and lenient about the second. It takes five to ten times as long, so it
reads again what msgspec refused, and what may have a name twice.
"""

import json
from collections import Counter
from typing import Any

_HALVES = ("\ud800", "\udfff")


class NameTwice(ValueError):
    """A name is twice in an object: `name`."""

    def __init__(self, name: str) -> None:
        super().__init__("a name is twice in an object")
        self.name = name


def read(body: bytes) -> Any:
    """The value of some JSON; its texts may hold halves of surrogate pairs.

    Raises NameTwice, RecursionError, and ValueError for what is no JSON or a number that is too large.
    """
    return _reader.decode(body.decode())


def holds_half_a_pair(value: Any) -> bool:
    """Whether a text in a JSON value was cut within a character, such as an emoji, that UTF-16 has as a pair."""
    if isinstance(value, str):
        return not value.isascii() and any(_HALVES[0] <= character <= _HALVES[1] for character in value)
    if isinstance(value, dict):
        return any(map(holds_half_a_pair, [*value.keys(), *value.values()]))
    return isinstance(value, list) and any(map(holds_half_a_pair, value))


def has_names_once(body: bytes, strings: int) -> bool:
    """Whether a body has no more than these strings, names among them; False where that is not sure.

    A body that was decoded has those of its fields at least, and a name more is a string more. It takes 0.3 µs.
    """
    if b"\\\\" in body:
        body = body.replace(b"\\\\", b"")  # then a quote behind a backslash is one within a string
    return body.count(b'"') - body.count(b'\\"') == 2 * strings


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise NameTwice(names.most_common(1)[0][0])
    return found


def _too_large(_: str) -> Any:
    raise ValueError("not a number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return number


_reader = json.JSONDecoder(object_pairs_hook=_once, parse_float=_finite, parse_constant=_too_large)
