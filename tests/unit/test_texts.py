"""Texts: what is refused, with the character named, and what is sent."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.sms.characters import cleaned, is_blank, named
from common.sms.segments import segments
from common.sms.texts import TEXT_PATTERN, normal_text, text_error


@pytest.mark.parametrize(
    "text", [" ", "   ", "\r\n", "\t", "\u200b", "\u00a0\u2060", "\ufe0f", "\u3164", "\u2800"]
)
def test_blank_texts_are_refused(text: str) -> None:
    """Space and invisible characters of any kind are nothing to read."""
    assert (text_error(text) or "").startswith("is blank")


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\x00", "U+0000 NUL"),
        ("\x07", "U+0007 a control character"),
        ("\x0b", "U+000B a control character"),
        ("\x0c", "U+000C a control character"),
        ("\x1b", "U+001B ESC"),
        ("\x7f", "U+007F DEL"),
        ("\x85", "U+0085 a control character"),
        ("\x9b", "U+009B a control character"),
        ("\u202a", "U+202A LEFT-TO-RIGHT EMBEDDING"),
        ("\u202e", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("\u2066", "U+2066 LEFT-TO-RIGHT ISOLATE"),
        ("\ud83d", "U+D83D half of a surrogate pair"),
        ("\udc00", "U+DC00 half of a surrogate pair"),
    ],
)
def test_control_characters_are_refused_by_name(character: str, name: str) -> None:
    """Terminals and logs obey them, and overrides of the direction make a text read as something else."""
    for text in (character + "a", f"a{character}b", "a" * 1_599 + character):
        assert f"holds {name}" in (text_error(text) or "")


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "a\tb\nc\r\nd\r",
        "1\u00a0000 €",
        "👨\u200d👩\u200d👧",
        "❤\ufe0f",
        "\u200f\u05e9\u05dc\u05d5\u05dd!\u200f",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "e\u0301\u0301",
        "\ufffd",
        "a\u2028b",
    ],
)
def test_what_people_write_is_taken(text: str) -> None:
    """Tabs, line ends, joined emoji, and the marks that Hebrew and Persian need."""
    assert text_error(text) is None


@given(st.text(st.characters(), min_size=1, max_size=50))
def test_nothing_that_is_taken_has_control_characters(text: str) -> None:
    """Whatever its characters, but for tabs and line ends."""
    if text_error(text) is None:
        assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in text if c not in "\t\n\r")
        assert not is_blank(text)


@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_the_pattern_of_the_document_says_the_same(text: str) -> None:
    """A client that checks by the document is refused nothing, and refuses nothing that would be taken."""
    assert (re.search(TEXT_PATTERN, text) is not None) == (text_error(text) is None)


def test_line_ends_are_one_lf() -> None:
    """Those of Windows and of old Macs: each is one character of the SMS."""
    assert normal_text("a\r\nb\rc\n\rd") == "a\nb\nc\n\nd"
    assert segments("a\r\n" * 80).units == segments(normal_text("a\r\n" * 80)).units == 160


def test_a_text_is_composed_where_that_takes_fewer_segments() -> None:
    """As Macs write accents, a text for GSM-7 would be UCS-2."""
    written = "caffe\u0300 " * 12
    assert segments(written).encoding == "UCS-2"
    assert normal_text(written) == "caffè " * 12
    assert segments(normal_text(written)).encoding == "GSM-7"


@pytest.mark.parametrize(
    "text", ["e\u0301\u0301\u0301" + "a" * 69, "e\u0301", "\u212b", "abc", "ё", "a" + "\u0301\u0316" * 400]
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    """Where nothing is gained, or marks are piled up, which takes the square of their number to sort."""
    assert normal_text(text) == text


@given(st.text(max_size=200))
def test_a_normal_text_reads_the_same_and_takes_no_more(text: str) -> None:
    """It is canonically equivalent, once its line ends are, and stays as it is when it comes again."""
    normal = normal_text(text)
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    assert unicodedata.normalize("NFD", normal) == unicodedata.normalize("NFD", lines)
    assert segments(normal).segments <= segments(text).segments
    assert normal_text(normal) == normal


def test_invisible_characters_are_those_of_unicode() -> None:
    """All format characters of this Python's Unicode that have no width, and no others that one can see."""
    shown_within_text = {
        c for c in map(chr, range(0x110000)) if unicodedata.category(c) == "Cf" and not is_blank(c)
    }
    # Signs of numbers and of abbreviations in Arabic, Syriac and Kaithi, and what joins hieroglyphs: they are seen.
    assert all(
        unicodedata.name(c).split()[0] in ("ARABIC", "SYRIAC", "KAITHI", "EGYPTIAN")
        for c in shown_within_text
    )
    assert not any(is_blank(c) for c in map(chr, range(0x21, 0x7F)))


@pytest.mark.parametrize(
    ("pasted", "clean"),
    [
        ("\ufeffnumber", "number"),
        (" Full\u00a0Name\u200e ", "Full\u00a0Name"),
        ("'phone", "phone"),
        ('="phone"', "phone"),
        ("O'Brien", "O'Brien"),
        ("=1+1", "=1+1"),
        ("", ""),
        ("'", ""),
    ],
)
def test_what_is_pasted_is_cleaned(pasted: str, clean: str) -> None:
    """Of what nobody meant, and of no more."""
    assert cleaned(pasted) == clean


def test_characters_have_names() -> None:
    """Plain ones stand for themselves."""
    assert [named(c) for c in ("a", '"', " ", "\u00a0", "\u0378")] == [
        '"a"',
        '"""',
        "U+0020 SPACE",
        "U+00A0 NO-BREAK SPACE",
        "U+0378",
    ]
