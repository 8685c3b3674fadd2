"""Characters that nobody sees or types: which they are, what they are called, and how they are taken off."""

import re
import unicodedata

# Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt), and the annotation marks. Contacts, web pages and
# office programs put them around what is copied. For patterns of Python and, without those beyond 16 bits, of ECMA 262.
INVISIBLE = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
)
_ALL_INVISIBLE = INVISIBLE + r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
BLANK = rf"\s\u2800{INVISIBLE}"  # the braille pattern without dots
_UNSEEN = re.compile(f"[{_ALL_INVISIBLE}]+")
_BLANK = re.compile(rf"[{BLANK}{_ALL_INVISIBLE}]*")
# How spreadsheets keep a number from being calculated with: an apostrophe, or a formula that gives a text.
_SPREADSHEET = re.compile(r"""=?['’"]+(.*?)['’"]*""", re.DOTALL)  # noqa: RUF001 - both apostrophes

_CONTROLS = {0x00: "NUL", 0x08: "BACKSPACE", 0x09: "TAB", 0x0A: "LF", 0x0D: "CR", 0x1B: "ESC", 0x7F: "DEL"}
_WITHOUT_NAMES = {"Cc": "a control character", "Cs": "half of a surrogate pair"}


def cleaned(pasted: str) -> str:
    """A phone number or the name of a column as somebody has pasted it, without what they did not mean.

    Invisible characters, space around it, and a spreadsheet's apostrophe, quotes or `="…"` are taken off. It is not for
    texts, where invisible characters have their uses: they join emoji.
    """
    text = (pasted if pasted.isascii() else _UNSEEN.sub("", pasted)).strip()
    found = _SPREADSHEET.fullmatch(text)
    return found[1].strip() if found else text


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in a text."""
    return not "!" <= text[:1] <= "~" and _BLANK.fullmatch(text) is not None


def named(character: str) -> str:
    """A character in words: `","`, or `U+202E RIGHT-TO-LEFT OVERRIDE` for one that is not plain ASCII."""
    if "!" <= character <= "~":
        return f'"{character}"'
    code = ord(character)
    name = _CONTROLS.get(code) or unicodedata.name(
        character, _WITHOUT_NAMES.get(unicodedata.category(character), "")
    )
    return f"U+{code:04X} {name}".rstrip()
