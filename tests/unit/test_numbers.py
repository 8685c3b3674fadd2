"""Numbers into E.164: the quick way says what the library says, and refusals say what is wrong."""

import random
from collections.abc import Iterator
from typing import Any

import phonenumbers
import pytest
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, PhoneNumberFormat, PhoneNumberType
from phonenumbers.phonemetadata import PhoneNumberDesc

from common.messages import is_e164
from common.sms import numbers
from common.sms.numbers import normalise

CODES = sorted(COUNTRY_CODE_TO_REGION_CODE)
TYPES = [number_type for number_type in PhoneNumberType.values() if number_type >= 0]


def by_the_library(number: str) -> str | None:
    """What phonenumbers makes of digits after a plus sign: E.164 as the wire format has it, or None."""
    try:
        parsed = phonenumbers.parse(number, None)
    except phonenumbers.NumberParseException:
        return None
    normal = phonenumbers.format_number(parsed, PhoneNumberFormat.E164)
    return normal if phonenumbers.is_valid_number(parsed) and is_e164(normal) else None


def ours(number: str) -> str | None:
    try:
        return normalise(number)
    except ValueError:
        return None


def examples() -> Iterator[str]:
    """A valid number of every kind of every region, without the plus sign."""
    for code, regions in COUNTRY_CODE_TO_REGION_CODE.items():
        for region in regions:
            plan = PhoneMetadata.metadata_for_region_or_calling_code(code, region)
            assert plan is not None
            for kind in (plan.general_desc, plan.mobile, *(getattr(plan, name) for name in numbers._KINDS)):
                if kind is not None and kind.example_number:
                    yield f"{code}{kind.example_number}"


def edited(rng: random.Random, digits: str) -> Iterator[str]:
    """Numbers close to one: a digit changed, one left out, one put in, and with what may be a national prefix."""
    at = rng.randrange(len(digits))
    yield digits[:at] + rng.choice("0123456789") + digits[at + 1 :]
    yield digits[:at] + digits[at + 1 :]
    yield digits[:at] + rng.choice("0123456789") + digits[at:]
    yield digits[:2] + "0" + digits[2:]
    yield digits[:2] + "15" + digits[2:]
    yield digits[:-3] + f"{rng.randrange(1000):03}"


def assert_same(candidates: Iterator[str]) -> tuple[int, int]:
    """Both ways agree on every candidate. Returns how many were valid, and how many not."""
    valid = refused = 0
    for digits in candidates:
        number = f"+{digits}"
        expected = by_the_library(number)
        assert ours(number) == expected, number
        valid += expected is not None
        refused += expected is None
    return valid, refused


def test_examples_of_every_kind_in_every_region_are_taken_as_the_library_takes_them() -> None:
    """The type patterns of all regions are in the quick patterns, in the library's order."""
    valid, _ = assert_same(examples())
    assert valid > 1000


@pytest.mark.parametrize("seed", range(3))
def test_numbers_close_to_valid_ones_are_judged_as_the_library_judges_them(seed: int) -> None:
    """Wrong digits, wrong lengths and national prefixes: neither way is more lenient than the other."""
    rng = random.Random(seed)
    valid, refused = assert_same(near for digits in examples() for near in edited(rng, digits))
    assert valid > 1000
    assert refused > 1000


def test_random_digits_after_every_calling_code_are_judged_as_the_library_judges_them() -> None:
    """The same, for whatever digits at all, of every length."""
    rng = random.Random(5)
    valid, refused = assert_same(
        f"{code}{rng.randrange(10 ** rng.randrange(3, 14)):0{length}}"
        for code in CODES
        for length in range(3, 15)
        for _ in range(6)
    )
    assert valid > 300
    assert refused > 1000


def test_numbers_with_spaces_and_dashes_are_judged_as_the_library_judges_them() -> None:
    """What stands between digits says nothing to the library either."""
    rng = random.Random(7)
    spaced = (
        "".join(rng.choice(["", "", " ", "-", ".", " (", ") ", "/", "\u2011"]) + digit for digit in near)
        for digits in examples()
        for near in (digits, *edited(rng, digits))
    )
    valid, refused = assert_same(spaced)
    assert valid > 1000
    assert refused > 1000


def test_valid_numbers_are_recognised_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick way is really taken, for mobile numbers of all countries: else it would be right, and slow."""
    asked: list[str] = []
    library = numbers._by_the_library

    def watched(number: str) -> str:
        asked.append(number)
        return library(number)

    monkeypatch.setattr(numbers, "_by_the_library", watched)
    mobiles = []
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        if (number := phonenumbers.example_number_for_type(region, PhoneNumberType.MOBILE)) is not None:
            mobiles.append(phonenumbers.format_number(number, PhoneNumberFormat.E164))
    assert [normalise(number) for number in mobiles] == mobiles
    assert len(mobiles) > 200
    assert asked == []


def test_a_valid_number_that_no_sender_would_take_is_refused() -> None:
    """Iran has a number of six digits, which the wire format's E.164 has no room for: told at once."""
    assert phonenumbers.is_valid_number(phonenumbers.parse("+989601", None))
    with pytest.raises(ValueError, match="7 to 15 digits"):
        normalise("+989601")


def plan(pattern: str, length: int = 7, **more: Any) -> PhoneMetadata:
    """The metadata of a region that does not exist."""
    numbers_of = PhoneNumberDesc(national_number_pattern=pattern, possible_length=(length,))
    return PhoneMetadata(
        **{"id": "XX", "country_code": 999, "general_desc": numbers_of, "mobile": numbers_of, **more},
        register=False,
    )


def quick(number: str, *plans: PhoneMetadata) -> bool:
    """Whether the quick way takes a number for valid and plain, by this metadata."""
    return numbers._patterns("999", plans)[len(number)].fullmatch(number) is not None


def test_a_region_answers_for_its_leading_digits() -> None:
    """A number belongs to the first region that claims it, even if only a later one knows it."""
    claims, knows = plan(r"2\d{6}", leading_digits="1"), plan(r"[123]\d{6}")
    assert not quick("+9991234567", claims, knows)
    assert quick("+9991234567", knows, claims)
    assert quick("+9993234567", claims, knows)


def test_what_may_be_a_national_prefix_is_left_to_the_library() -> None:
    """It would be taken away, where what remains is possible; an empty prefix takes nothing away."""
    assert not quick("+9998234567", plan(r"[28]\d{6}", national_prefix_for_parsing="8"))
    assert quick("+9992834567", plan(r"[28]\d{6}", national_prefix_for_parsing="8"))
    assert quick("+9992834567", plan(r"[28]\d{6}", national_prefix_for_parsing="(?:8(4))?"))


def test_lengths_of_each_kind_count() -> None:
    """A pattern may say less than its lengths do, and where mobile and fixed lines look alike the latter hold."""
    fixed = PhoneNumberDesc(national_number_pattern=r"\d+", possible_length=(8,))
    general = PhoneNumberDesc(national_number_pattern=r"\d+", possible_length=(7, 8))
    alike = plan(r"\d+", general_desc=general, fixed_line=fixed)
    assert quick("+99912345678", alike)
    assert not quick("+9991234567", alike)
    assert not quick("+999123456", alike)


@pytest.mark.parametrize(
    "written",
    [
        "+54 11 6658-7382",
        " +54 11 6658 7382 ",
        "+54(11)6658.7382",
        "+54 011 6658-7382",
        "\uff0b54 11 6658-7382",
        "+\u0665\u0664 11 6658 7382",  # Arabic-Indic digits
        "+54116658738\u0662",
        "+５４１１６６５８７３８２",  # noqa: RUF001 - full-width digits
    ],
)
def test_ways_of_writing_give_one_normal_form(written: str) -> None:
    """Spaces, dashes, a national prefix and other scripts' digits are all the same number."""
    assert normalise(written) == "+541166587382"


def test_a_leading_zero_that_belongs_to_the_number_stays() -> None:
    """Italian numbers keep their zero, others lose what is only dialled at home."""
    assert normalise("+390236618300") == "+390236618300"
    assert normalise("+44 (0)20 7946 0958") == "+442079460958"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("01166587382", "begin with \\+ and the country code"),
        ("00541166587382", "begin with \\+ and the country code"),
        ("hello", "begin with \\+ and the country code"),
        ("tel:+541166587382", "begin with \\+ and the country code"),
        ("+", "no such country code|not a phone number"),
        ("+54", "too short|not a phone number"),
        ("+999123456789", "no such country code"),
        ("+012345678", "no such country code"),
        ("+5411665", "too short"),
        ("+541166587382123456", "too long"),
        ("+12015550", "area code is missing|too short"),
        ("+11115550123", "not a number that is in use"),
        ("+1 800 FLOWERS", "something other than digits"),
        ("+541166587382 ext. 5", "something other than digits"),
        ("+54116658738O", "something other than digits"),  # the letter O
        ("+541166587382\x00", "something other than digits"),
        ("++541166587382", "something other than digits"),
        ("+" + "5" * 300, "too long"),
    ],
)
def test_a_refusal_says_what_is_wrong(number: str, reason: str) -> None:
    """Each reason is one that the caller can act upon, and none repeats the number."""
    with pytest.raises(ValueError, match=reason) as error:
        normalise(number)
    digits = number.strip("+ ")
    assert len(digits) < 5 or digits not in str(error.value)


def test_patterns_are_kept_for_real_calling_codes_only() -> None:
    """Whatever is asked for, the memory is bounded: codes that do not exist and huge lengths make no pattern."""
    for number in ("+999123", "+5" * 50, "+54" + "1" * 1000, "+", "x"):
        with pytest.raises(ValueError, match=r"."):
            normalise(number)
    assert numbers._plain.cache_info().currsize <= len(CODES)
