"""How many SMS a text takes: in which encoding, and how it is split.

3GPP TS 23.038: 6.2.1 has the default alphabet of 7 bits, "GSM-7", and 6.2.1.1 its extension table, whose characters
take an escape septet and one more. Any other character makes the whole text UCS-2, in UTF-16 code units.
3GPP TS 23.040: an SMS carries 140 octets, which is 160 septets or 70 code units. The parts of a longer text begin with
a header of 6 octets that says which part it is (9.2.3.24.1), which leaves 153 or 67. Neither an escape sequence nor a
surrogate pair is ever split over two parts, so a part may end one short.
"""

import re
from collections.abc import Callable
from typing import Literal

import msgspec

BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION = "\f^{}\\[~]|€"

_ESCAPE = "\x1b"
# Possessive: without it a late character of another alphabet costs a step back for each character before it.
_ALL_BASIC = re.compile(f"[{re.escape(BASIC)}]*+")
_ALL_GSM = re.compile(f"[{re.escape(BASIC + EXTENSION)}]*+")


class Segments(msgspec.Struct, frozen=True, gc=False):
    """What a text takes: `units` are septets in GSM-7, where those of the extension table count twice, and UTF-16 code
    units in UCS-2; `segments` is the number of SMS that carry them. An empty text is one SMS too.
    """

    encoding: Literal["GSM-7", "UCS-2"]
    segments: int
    units: int


def segments(text: str) -> Segments:
    """Encoding, SMS and units of a text, in time linear in its length. CR LF counts as the one LF that is sent.

    A plain text of 160 characters takes 0.4 to 0.6 µs, 1,600 euro signs 30 µs.
    """
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
    if _ALL_BASIC.fullmatch(text):
        units = len(text)
        return Segments("GSM-7", 1 if units <= 160 else -(-units // 153), units)
    if _ALL_GSM.fullmatch(text):
        septets = _septets(text)
        units = len(septets)
        return Segments("GSM-7", _parts(units, 160, 153, lambda i: septets[i] == _ESCAPE), units)
    octets = text.encode("utf-16-be", "surrogatepass")
    units = len(octets) // 2
    return Segments("UCS-2", _parts(units, 70, 67, lambda i: 0xD8 <= octets[2 * i] <= 0xDB), units)


def dear_character(text: str) -> str | None:
    """The first character that GSM-7 lacks, for which the whole text is UCS-2; None if there is none."""
    found = _ALL_GSM.match(text)
    return text[found.end() : found.end() + 1] or None if found else None


def _septets(text: str) -> str:
    """The text with an escape before each character of the extension table."""
    for character in EXTENSION:
        if character in text:
            text = text.replace(character, _ESCAPE + character)
    return text


def _parts(units: int, alone: int, each: int, begins_pair: Callable[[int], bool]) -> int:
    """How many SMS these units take: one of up to `alone`, or several of `each`, without splitting a pair of units.

    `begins_pair(i)`: unit i and the next one belong together.
    """
    if units <= alone:
        return 1
    parts = start = 0
    while start < units:
        end = start + each
        start = end - 1 if end < units and begins_pair(end - 1) else end
        parts += 1
    return parts
