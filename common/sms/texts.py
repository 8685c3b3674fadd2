"""Texts of messages, as the API and contacts files take them: what is wrong with one, and how it is sent."""

import re
import unicodedata

from common.sms.characters import BLANK, is_blank, named
from common.sms.segments import segments

# Control characters, except tabs and line ends. Halves of surrogate pairs. Characters that change the direction of the
# text around them, so that it reads as something else; the marks U+200E, U+200F and U+061C are usual in Hebrew and
# Arabic, and stay.
_CONTROLS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069"
_REFUSED = re.compile(rf"[{_CONTROLS}\ud800-\udfff]")
# What `text_error` takes, as JSON Schema has it.
TEXT_PATTERN = f"^[^{_CONTROLS}]*[^{_CONTROLS}{BLANK}][^{_CONTROLS}]*$"
_LINE_END = re.compile("\r\n?")
# No language has more marks on one letter (UAX 15, Stream-Safe Text Format). Sorting takes the square of their number:
# 8 ms for 1,600.
_MOST_MARKS = 30


def text_error(text: str) -> str | None:
    """What is wrong with a text, if anything is; the reason does not contain the text."""
    if is_blank(text):
        return "is blank: it needs something to read"
    if text.isprintable():
        return None
    if (found := _REFUSED.search(text)) is None:
        return None
    if found[0] >= "\ud800":
        return f"holds {named(found[0])}: a character such as an emoji was cut in two"
    return f"holds {named(found[0])}: leave control characters out"


def normal_text(text: str) -> str:
    """The text as it is sent: its line ends are LF, and it is in Unicode's NFC where that takes fewer segments.

    A Mac writes é as e and an accent. GSM-7 has é and no accent, so a text for one SMS would take three.
    """
    if "\r" in text:
        text = _LINE_END.sub("\n", text)
    if text.isascii() or unicodedata.is_normalized("NFC", text) or _has_piled_marks(text):
        return text
    composed = unicodedata.normalize("NFC", text)
    return composed if segments(composed).segments < segments(text).segments else text


def _has_piled_marks(text: str) -> bool:
    marks = "".join(["+" if unicodedata.combining(character) else " " for character in text])
    return "+" * (_MOST_MARKS + 1) in marks
