"""Cuts a JSON array into its items, one after the other, without making anything of the whole.

msgspec's `list[Raw]` would make all items at once, before their number can be bounded: of 32 MB of `[1,1,…]` 1.2 GB.
"""

import json
import re
from collections.abc import Iterator

# So much is looked at in one go; no item may be larger.
WINDOW_BYTES = 256 * 1024

_SPACE = re.compile(r"[ \t\n\r]*")
_scan = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=len).raw_decode


def items_of(body: bytes) -> Iterator[bytes]:
    """The bytes of each item, up to the end or to what is no JSON; nothing if the body is no array."""
    text, start = _window(body, 0), 0
    at = _after_space(text, 0)
    if text[at : at + 1] != "[":
        return
    at += 1
    while True:
        try:
            first = _after_space(text, at)
            _, end = _scan(text, first)
            behind = _after_space(text, end)
            is_last = ",]".index(text[behind])
        except (ValueError, IndexError, RecursionError):  # it may go on behind the window
            if at == 0:
                return
            start += at
            text, at = _window(body, start), 0
            continue
        yield body[start + first : start + end]
        if is_last:
            return
        at = behind + 1


def _window(body: bytes, start: int) -> str:
    # What JSON is made of is ASCII, so that in Latin-1 all stands at its own place, whatever the texts are.
    return body[start : start + WINDOW_BYTES].decode("latin-1")


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
