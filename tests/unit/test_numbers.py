"""Numbers into E.164: the quick way says what the library says, and refusals say what is wrong."""

import random
import re
from collections.abc import Iterator
from typing import Any

import phonenumbers
import pytest
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, PhoneNumberFormat, PhoneNumberType
from phonenumbers.phonemetadata import PhoneNumberDesc

from common.messages import is_e164
from common.sms import numbers, plans
from common.sms.numbers import NumberRules, is_country, normalise, number_error
from common.sms.reserved import is_reserved

EVERY = NumberRules(reserved=True)
BRITISH = NumberRules(country="GB")
CODES = sorted(COUNTRY_CODE_TO_REGION_CODE)
TYPES = [number_type for number_type in PhoneNumberType.values() if number_type >= 0]


def by_the_library(number: str, region: str | None = None) -> str | None:
    """What phonenumbers makes of a number, in a region or with a plus sign: E.164 of 7 to 15 digits, or None."""
    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return None
    normal = phonenumbers.format_number(parsed, PhoneNumberFormat.E164)
    return normal if phonenumbers.is_valid_number(parsed) and is_e164(normal) else None


def ours(number: str) -> str | None:
    try:
        return normalise(number, EVERY)
    except ValueError:
        return None


def examples() -> Iterator[str]:
    """A valid number of every kind of every region, without the plus sign."""
    for code, regions in COUNTRY_CODE_TO_REGION_CODE.items():
        for region in regions:
            plan = PhoneMetadata.metadata_for_region_or_calling_code(code, region)
            assert plan is not None
            for kind in (plan.general_desc, plan.mobile, *(getattr(plan, name) for name in plans.KINDS)):
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
        if is_reserved(plain := re.sub(r"[^+\d]", "", number)):
            expected = plain
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
        "".join(rng.choice(["", "", " ", "-", ".", " (", ") ", "\u2011"]) + digit for digit in near)
        for digits in examples()
        for near in (digits, *edited(rng, digits))
    )
    valid, refused = assert_same(w for w in spaced if "(0)" not in w and not w.endswith(".0"))
    assert valid > 1000
    assert refused > 1000


def test_valid_numbers_are_recognised_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick way is really taken, for mobile numbers of all countries: else it would be right, and slow."""
    asked: list[str] = []
    library = numbers._by_the_library

    def watched(number: str, country: str | None) -> str:
        asked.append(number)
        return library(number, country)

    monkeypatch.setattr(numbers, "_by_the_library", watched)
    mobiles = []
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        if (number := phonenumbers.example_number_for_type(region, PhoneNumberType.MOBILE)) is not None:
            mobiles.append(phonenumbers.format_number(number, PhoneNumberFormat.E164))
    assert [normalise(number, EVERY) for number in mobiles] == mobiles
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


def quick(number: str, *regions: PhoneMetadata) -> bool:
    """Whether the quick way takes a number for valid and plain, by this metadata."""
    return plans.patterns("999", regions)[len(number)].fullmatch(number) is not None


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
    """Italian numbers keep their zero, others lose what is only dialled at home, Italian mobiles among them."""
    assert normalise("+390236618300") == "+390236618300"
    assert normalise("+39 (0)2 3661 8300") == "+390236618300"
    assert normalise("+39 (0)347 123 4567") == "+393471234567"
    assert normalise("+44 (0)20 7183 8750") == normalise("0044 (0) 20 7183 8750") == "+442071838750"
    assert normalise("+225 (0)7 07 12 34 56") == "+2250707123456"


@pytest.mark.parametrize(
    "written",
    [
        "(+54) 11 6658 7382",
        "[+54] 11 6658 7382",
        "0054 11 6658 7382",
        "00 54 (11) 6658-7382",
        "+54\u221211\u22126658\u22127382",  # minus signs
        "+54\u00a011\u202f6658\u20097382",
        "\u202a+541166587382\u202c",  # as macOS copies them
        "\u200e+541166587382",
        "\ufeff+54\u200b1166\u00ad58\u20607382\u200f",
        "\u2066+541166587382\u2069",
        "'+541166587382",
        "\u2019+541166587382",
        "='+541166587382",
        '="+541166587382"',
        '"+541166587382"',
        "+54/1166587382",
        "tel:+54-11-6658-7382",
        "TEL: +54 11 6658 7382",
    ],
)
def test_what_people_paste_is_one_number(written: str) -> None:
    """Brackets, 00, invisible characters and what spreadsheets add: contacts files and the API take them alike."""
    assert normalise(written) == "+541166587382"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("'", "empty"),
        ("\u200b", "empty"),
        ("01166587382", "begin with \\+ and the country code$"),
        ("541166587382", "begin with \\+ and the country code; a spreadsheet drops the \\+"),
        ("0012", "too short|not a phone number"),
        ("hello", "begin with \\+ and the country code"),
        ("fax:+541166587382", 'holds "f", something other than digits'),
        ("+", "no digits"),
        ("- ()", "no digits"),
        ("54 +11 6658 7382", "among its digits"),
        ("+54", "too short|not a phone number"),
        ("+012345678", "no such country code"),
        ("+5411665", "too short"),
        ("+541166587382123456", "too long"),
        ("+12015550", "area code is missing|too short"),
        ("+11115550123", "not a number that is in use"),
        ("+442079460", "not a number that is in use"),
        ("+22507000000", "too short for its country"),
        ("+1 800 FLOWERS", "something other than digits"),
        ("+541166587382 ext. 5", "something other than digits"),
        ("+54116658738O", "something other than digits"),  # the letter O
        ("+541166587382\x00", r"U\+0000 NUL"),
        ("+541166587382\n+541166587383", r"U\+000A LF"),
        ("+541166587382\u00b9", r"U\+00B9 SUPERSCRIPT ONE"),  # of a footnote
        ("++541166587382", "more than one \\+"),
        ("+541166587382 +541166587383", "more than one \\+"),
        ("+541166587382, 1166587383", 'holds ","'),
        ("+49 30 12345/12346", "as two numbers do"),
        ("+54 11 6658 7382/3", "as two numbers do"),
        ("+541166587382.0", "ends in .0: a spreadsheet"),
        ("541166587382,00", "ends in .0: a spreadsheet"),
        ("+49 30 1234567.0", "ends in .0: a spreadsheet"),
        ("5.41167E+11", "rounded"),
        ("5,41167e11", "rounded"),
        ("+" + "5" * 300, "too long"),
        ("+" + "5" * 30_000, "too long"),
    ],
)
def test_a_refusal_says_what_is_wrong(number: str, reason: str) -> None:
    """Each reason is one that the caller can act upon, and none repeats the number."""
    with pytest.raises(ValueError, match=reason) as error:
        normalise(number)
    digits = number.strip("+ ")
    assert len(digits) < 5 or digits not in str(error.value)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("020 7183 8750", "+442071838750"),
        ("(020) 7183-8750", "+442071838750"),
        ("2071838750", "+442071838750"),  # a spreadsheet has dropped the zero
        ("442071838750", "+442071838750"),  # and here the plus sign
        ("+54 11 6658 7382", "+541166587382"),
        ("0054 11 6658 7382", "+541166587382"),
        ("+44 (0)20 7183 8750", "+442071838750"),
    ],
)
def test_a_country_reads_national_numbers(written: str, number: str) -> None:
    """Its own as they are dialled there; international ones mean the same as without a country."""
    assert normalise(written, BRITISH) == number


def test_national_numbers_are_those_of_the_library() -> None:
    """As each country's people write them, and close to that: the quick way says what the library says."""
    rng = random.Random(11)
    seen = 0
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        example = phonenumbers.example_number_for_type(region, PhoneNumberType.MOBILE)
        if example is None:
            continue
        written = phonenumbers.format_number(example, PhoneNumberFormat.NATIONAL)
        digits = re.sub(r"\D", "", written)
        for near in (digits, str(example.national_number), *edited(rng, digits), *edited(rng, digits)):
            if near.startswith("00"):
                continue
            expected = by_the_library(near, region)
            found = number_error(near, NumberRules(region, reserved=True)) or normalise(
                near, NumberRules(region, reserved=True)
            )
            if expected is None:
                assert not found.startswith("+") or is_reserved(found), (region, near)
            else:
                assert found == expected, (region, near)
            seen += expected is not None
    assert seen > 500


def test_each_country_has_its_own_prefix_for_abroad() -> None:
    """011 in the United States; 00 is understood there as well, since no number there begins with it."""
    american = NumberRules(country="US")
    for written in ("011 54 11 6658 7382", "0054 11 6658 7382", "+541166587382"):
        assert normalise(written, american) == "+541166587382"
    assert number_error("7183 8750", BRITISH) is not None


def test_countries_are_those_of_iso_3166() -> None:
    """As two capital letters."""
    assert is_country("GB")
    assert not any(is_country(country) for country in ("gb", "UK", "XX", "44", "001", ""))


RESERVED = [
    "+999768835601",
    "+12025550150",
    "+18005550199",
    "+447700900123",
    "+442079460958",
    "+441632960001",
    "+61491570156",
    "+61255501234",
    "+33639981234",
    "+33199001234",
    "+4915228817386",
    "+493023125000",
    "+491713920099",
    "+46701740605",
    "+46313900600",
    "+353209101234",
    "+353890110123",
]


@pytest.mark.parametrize("number", RESERVED)
def test_numbers_reserved_for_fiction_are_taken_where_nothing_is_sent(number: str) -> None:
    """Valid by the library or not; elsewhere they are refused, and the reason names the setting."""
    assert normalise(number, EVERY) == number
    assert normalise(f"{number[:4]} {number[4:]}", EVERY) == number
    with pytest.raises(ValueError, match=r"reserved for fiction.*RESERVED_NUMBERS"):
        normalise(number)


def test_reserved_numbers_in_national_form() -> None:
    """A country's rules come first, then the range."""
    assert normalise("07700 900123", NumberRules("GB", reserved=True)) == "+447700900123"
    assert normalise("+44 (0)7700 900123", EVERY) == "+447700900123"
    assert "reserved" in (number_error("07700 900123", BRITISH) or "")


@pytest.mark.parametrize(
    "number",
    ["+12025550200", "+12025560150", "+447700901123", "+442079470958", "+46701740700", "+99976883560123456"],
)
def test_the_neighbours_of_reserved_numbers_are_not_reserved(number: str) -> None:
    """The ranges are no wider than the regulators have them."""
    assert not is_reserved(number)


def test_patterns_are_kept_for_real_calling_codes_only() -> None:
    """Whatever is asked for, the memory is bounded: codes that do not exist and huge lengths make no pattern."""
    for number in ("+999123", "+5" * 50, "+54" + "1" * 1000, "+", "x"):
        with pytest.raises(ValueError, match=r"."):
            normalise(number)
    assert plans.patterns_of_code.cache_info().currsize <= len(CODES)
