"""Texts into segments, by table and against a model that packs character by character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.sms.segments import BASIC, EXTENSION, Segments, _parts, dear_character, segments

# The default alphabet by code, 3GPP TS 23.038 section 6.2.1, row by row; its 0x1B is the escape.
TABLE = (
    *("@", "£", "$", "¥", "è", "é", "ù", "ì", "ò", "Ç", "\n", "Ø", "ø", "\r", "Å", "å"),
    *("Δ", "_", "Φ", "Γ", "Λ", "Ω", "Π", "Ψ", "Σ", "Θ", "Ξ", "ESC", "Æ", "æ", "ß", "É"),
    *(" ", "!", '"', "#", "¤", "%", "&", "'", "(", ")", "*", "+", ",", "-", ".", "/"),
    *("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", ":", ";", "<", "=", ">", "?"),
    *("¡", "A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O"),
    *("P", "Q", "R", "S", "T", "U", "V", "W", "X", "Y", "Z", "Ä", "Ö", "Ñ", "Ü", "§"),
    *("¿", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o"),
    *("p", "q", "r", "s", "t", "u", "v", "w", "x", "y", "z", "ä", "ö", "ñ", "ü", "à"),
)


def model(text: str) -> Segments:
    """Each character goes into the part at hand, or into a new one where it does not fit whole; CR LF is one."""
    text = text.replace("\r\n", "\n")
    if all(c in TABLE or c in EXTENSION for c in text):
        encoding, alone, each = "GSM-7", 160, 153
        sizes = [1 if c in TABLE else 2 for c in text]
    else:
        encoding, alone, each = "UCS-2", 70, 67
        sizes = [2 if ord(c) > 0xFFFF else 1 for c in text]
    if sum(sizes) <= alone:
        return Segments(encoding, 1, sum(sizes))  # type: ignore[arg-type] # one of the two
    parts, room = 0, 0
    for size in sizes:
        if size > room:
            parts, room = parts + 1, each
        room -= size
    return Segments(encoding, parts, sum(sizes))  # type: ignore[arg-type]


def test_the_alphabet_is_the_standards() -> None:
    """All 127 characters of the table, and the ten of the extension table."""
    assert len(TABLE) == 128
    assert sorted(BASIC) == sorted(c for c in TABLE if c != "ESC")
    assert sorted(EXTENSION) == sorted("\f^{}\\[~]|€")


@pytest.mark.parametrize(
    ("text", "encoding", "count", "units"),
    [
        ("", "GSM-7", 1, 0),
        ("a" * 160, "GSM-7", 1, 160),
        ("a" * 161, "GSM-7", 2, 161),
        ("a" * 306, "GSM-7", 2, 306),
        ("a" * 307, "GSM-7", 3, 307),
        ("a" * 1600, "GSM-7", 11, 1600),
        ("ñ" * 160, "GSM-7", 1, 160),
        ("€" * 80, "GSM-7", 1, 160),
        ("€" * 81, "GSM-7", 2, 162),
        ("a" * 159 + "€", "GSM-7", 2, 161),
        # The euro does not fit into the last septet of a part, here the first part's, and begins the next.
        ("a" * 152 + "€" * 77, "GSM-7", 3, 306),
        ("a" * 152 + "€" * 76, "GSM-7", 2, 304),
        ("a" * 151 + "€" * 77 + "a", "GSM-7", 2, 306),
        ("a" * 151 + "€" * 78, "GSM-7", 3, 307),
        ("a" * 153 + "a" * 151 + "€", "GSM-7", 2, 306),
        ("ж" * 70, "UCS-2", 1, 70),
        ("ж" * 71, "UCS-2", 2, 71),
        ("ж" * 134, "UCS-2", 2, 134),
        ("ж" * 135, "UCS-2", 3, 135),
        ("😀" * 35, "UCS-2", 1, 70),
        ("😀" * 36, "UCS-2", 2, 72),
        ("😀" * 66, "UCS-2", 2, 132),
        ("😀" * 67, "UCS-2", 3, 134),  # 134 code units, but 33 whole ones a part
        ("a" * 69 + "😀", "UCS-2", 2, 71),
        ("`" + "a" * 69, "UCS-2", 1, 70),  # the backtick is the one printable of ASCII that GSM-7 lacks
        ("ç", "UCS-2", 1, 1),  # only the capital is in the alphabet
        ("Ç", "GSM-7", 1, 1),
        ("\x1b", "UCS-2", 1, 1),  # the escape is no character
        ("\t", "UCS-2", 1, 1),
        ("]" * 153, "GSM-7", 3, 306),
        ("this is a " + "]" * 75 + "😘", "UCS-2", 2, 87),
        ("|" * 30 + "∞" + "^" * 39, "UCS-2", 1, 70),
        ("e\u0301\u0301\u0301" + "a" * 69, "UCS-2", 2, 73),
        ("👨\u200d👩\u200d👧" * 9, "UCS-2", 2, 72),
        ("ΓΔΘΛΞΠΣΦΨΩ", "GSM-7", 1, 10),
        ("a\r\n" * 80, "GSM-7", 1, 160),
        ("\u20ac\u0416", "UCS-2", 1, 2),  # beside a Cyrillic letter the euro is one code unit
    ],
)
def test_examples(text: str, encoding: str, count: int, units: int) -> None:
    """The limits of 160/153 septets and 70/67 code units, and pairs that meet them."""
    found = segments(text)
    assert (found.encoding, found.segments, found.units) == (encoding, count, units)


GSM = st.text(st.sampled_from(BASIC + EXTENSION * 8), max_size=700)
WIDE = st.text(st.sampled_from("aж漢😀🏴€"), max_size=500)
ANY = st.text(max_size=300)


@given(st.one_of(GSM, WIDE, ANY))
def test_any_text_is_split_as_character_by_character(text: str) -> None:
    """The quick count is the packed count, for texts of any mixture."""
    assert segments(text) == model(text)


@given(st.integers(0, 170), st.sampled_from("€😀"), st.integers(0, 160))
def test_pairs_around_the_edges_of_parts(before: int, pair: str, after: int) -> None:
    """A run of pairs that begins anywhere around an edge is packed without splitting one."""
    text = "a" * before + pair * after + "a" * (before % 7)
    assert segments(text) == model(text)


def test_half_a_surrogate_pair_is_counted_and_does_not_raise() -> None:
    """Python's strings may hold one; a text from JSON hardly does."""
    assert segments("\ud83d" * 71) == Segments("UCS-2", 2, 71)


@given(st.text(max_size=300))
def test_the_dear_character_is_the_first_that_gsm_7_lacks(text: str) -> None:
    """A text without one is GSM-7; one with it is GSM-7 up to there."""
    dear = dear_character(text)
    assert (dear is None) == (segments(text).encoding == "GSM-7")
    if dear is not None:
        assert segments(text[: text.index(dear)]).encoding == "GSM-7"


def test_one_no_break_space_is_named() -> None:
    """It looks like a space, and makes three segments of one."""
    text = "a" * 100 + "\u00a0" + "a" * 50
    assert segments(text).segments == 3
    assert dear_character(text) == "\u00a0"


def test_parts_are_found_by_their_ends() -> None:
    """One look for each segment, not for each character: 1,600 euro signs cost about what 1,600 letters do."""
    text = "€" * 1600
    looks = 0

    def begins_pair(at: int) -> bool:
        nonlocal looks
        looks += 1
        return at % 2 == 0

    assert _parts(3_200, 160, 153, begins_pair) == segments(text).segments == 22
    assert looks <= 22
