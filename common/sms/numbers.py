"""Phone numbers as people write them, in E.164 form: the same number, or the same reason, wherever one is given.

Contacts files, the API and batches all call `normalise`. What is a number in its country is for the phonenumbers
library to say.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import phonenumbers
from phonenumbers import NumberParseException, PhoneMetadata, ValidationResult

from common.messages import is_e164
from common.sms.characters import cleaned, named
from common.sms.plans import is_plain
from common.sms.reserved import is_reserved

LONGEST_CHARS = 100  # nobody writes a number with more

_PLUS = "+＋"  # noqa: RUF001 - a full-width plus is meant
_SPACE = " \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_DASHES = r"\-‐‑‒–—―−﹣－"  # noqa: RUF001
_BRACKETS = r"()\[\]（）"  # noqa: RUF001
_OTHER = r"[^\d+＋./．／" + _SPACE + _DASHES + _BRACKETS + "]"  # noqa: RUF001
_ODD = re.compile(_OTHER)
_BETWEEN = re.compile(r"[./．／" + _SPACE + _DASHES + _BRACKETS + "]+")  # noqa: RUF001
# A country code, separators, and no zero that may be dialled within the country only.
_USUAL = re.compile(r"\+(?:[\d )-]|\((?! *0))+", re.ASCII)
_USUAL_BETWEEN = str.maketrans("", "", " -()")
_SCHEME = re.compile(r"\Atel:", re.IGNORECASE)  # RFC 3966; links that are copied have it
# A country code, and a zero that is dialled within the country only.
_TRUNK_ZERO = re.compile(r"(\D*(?:0\D*0\D*)?\d(?:\D*\d){0,2}\D*)[(\[（]\s*0\s*[)\]）]")  # noqa: RUF001
_ROUNDED = re.compile(r"[+]?\d+(?:[.,]\d+)?[eE]\+?\d+")
_FRACTION = re.compile(r".*\d[.,]0|\+?\d+[.,]0+")
# Country and area code, before a slash: 0049 30/123456 is one number, 0049 30 123456/7 two.
_AREA_DIGITS = 7
_FEWEST_DIGITS = 7  # of an international number
_FEWEST_AT_HOME = 6  # of a number without an area code

_AS_TEXT = "format the column as text"


@dataclass(frozen=True, slots=True)
class NumberRules:
    """How numbers are read, and which are taken.

    Attributes:
        country: The country of numbers in national form, as ISO 3166 has it (`GB`); None: they are refused.
        reserved: Whether numbers reserved for fiction are taken.
    """

    country: str | None = None
    reserved: bool = False


INTERNATIONAL = NumberRules()


def is_country(country: str) -> bool:
    """Whether numbers in national form can be read for a country: `GB`."""
    return country in phonenumbers.SUPPORTED_REGIONS


def normalise(written: str, rules: NumberRules = INTERNATIONAL) -> str:
    """The number in E.164 form. Raises ValueError; its text is the reason, and does not contain the number.

    A number that is E.164 already takes 0.5 to 1 µs, with spaces and hyphens 2 µs, as people paste it 10 to 20 µs, and
    one that the library must judge 60 to 120 µs.
    """
    number = written if is_plain(written) or is_reserved(written) else _usual(written)
    number = number or _read(written, rules.country)
    if not rules.reserved and is_reserved(number):
        raise ValueError("reserved for fiction, so it reaches nobody: RESERVED_NUMBERS=true accepts it")
    return number


def is_like_a_number(written: str) -> bool:
    """Whether it has the characters of a phone number, and enough digits for one of a region, right or wrong."""
    text = cleaned(written)
    return _ODD.search(text) is None and sum(map(str.isdecimal, text)) >= _FEWEST_AT_HOME


def number_error(written: str, rules: NumberRules = INTERNATIONAL) -> str | None:
    """The error of `normalise` for a number, if there is one."""
    try:
        normalise(written, rules)
    except ValueError as error:
        return str(error)
    return None


def _usual(written: str) -> str | None:
    """The number that is written with spaces, hyphens and brackets only, if it is one: quick."""
    if _USUAL.fullmatch(written):
        number = written.translate(_USUAL_BETWEEN)
        return number if is_plain(number) else None
    return None


def _read(written: str, country: str | None) -> str:
    text = _SCHEME.sub("", cleaned(written))
    _refuse_what_is_none(text)
    reason = ""
    for reading in _readings(text, country):
        if is_plain(reading) or is_reserved(reading):
            return reading
        try:
            return _by_the_library(reading, country)
        except ValueError as error:
            reason = reason or str(error)
    raise ValueError(reason)


def _readings(text: str, country: str | None) -> Iterator[str]:
    """What a text may mean, the likeliest first: `+` and digits, or digits of a national number. Raises ValueError."""
    if _TRUNK_ZERO.match(text):
        yield from _readings(_TRUNK_ZERO.sub(r"\1", text, count=1), country)
    compact = _BETWEEN.sub("", text)
    sign, digits = compact[:1], _ascii(compact.lstrip(_PLUS))
    if sign in _PLUS:
        yield f"+{digits}"
        return
    if country is not None:
        if is_plain(number := _at_home(digits, country)):
            yield number
        yield digits
    if digits.startswith("00"):  # how most countries dial abroad (ITU-T E.164, D.4)
        yield f"+{digits[2:]}"
    elif country is None:
        raise ValueError(_no_plus(digits))


def _at_home(digits: str, country: str) -> str:
    """The number that is most likely meant by digits that are dialled in a country; empty for one that is abroad."""
    plan = PhoneMetadata.metadata_for_region(country)
    if plan is None or re.match(plan.international_prefix or "00", digits):
        return ""
    return f"+{plan.country_code}{digits.removeprefix(plan.national_prefix or '')}"


def _ascii(digits: str) -> str:
    """Digits of any script in ASCII."""
    return digits if digits.isascii() else "".join(str(int(digit)) for digit in digits)


def _by_the_library(number: str, country: str | None) -> str:
    """The number in E.164 form, by its country's numbering plan. Raises ValueError."""
    try:
        parsed = phonenumbers.parse(number, country)
    except NumberParseException as error:
        raise ValueError(_REASONS.get(error.error_type, "not a phone number")) from None
    normal = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    if is_reserved(normal):
        return normal
    if not phonenumbers.is_valid_number(parsed):
        raise ValueError(_POSSIBLE.get(phonenumbers.is_possible_number_with_reason(parsed), _NOT_IN_USE))
    if not is_e164(normal):  # the library knows some numbers of 6 digits, and some of 16 and more
        raise ValueError("not a number for SMS: 7 to 15 digits, those of the country code among them")
    return normal


def _refuse_what_is_none(text: str) -> None:
    """Raises ValueError for what no number looks like."""
    if not text:
        raise ValueError("empty: give it in international form, + and the country code first")
    if len(text) > LONGEST_CHARS:
        raise ValueError("too long")
    if _ROUNDED.fullmatch(text):
        raise ValueError(
            f"a spreadsheet has rounded it (E+): the digits are lost; {_AS_TEXT}, and enter it again"
        )
    if _FRACTION.fullmatch(text):
        raise ValueError(f"ends in .0: a spreadsheet has taken it for a quantity; {_AS_TEXT}")
    if (odd := _ODD.search(text)) is not None:
        if not any(character.isdecimal() for character in text):
            raise ValueError(_NO_PLUS)
        raise ValueError(
            f"holds {named(odd[0])}, something other than digits, spaces and - . ( ) /: give one number only"
        )
    if sum(text.count(plus) for plus in _PLUS) > 1:
        raise ValueError("holds more than one +: give one number only")
    if not _BETWEEN.sub("", text).lstrip(_PLUS).isdecimal():
        raise ValueError("holds a + among its digits, or no digits: begin with + and the country code")
    before, slash, _ = text.replace("／", "/").partition("/")  # noqa: RUF001
    if slash and sum(map(str.isdecimal, before)) > _AREA_DIGITS:
        raise ValueError("holds a / after the area code, as two numbers do: give one number only")


_NO_PLUS = "not in international form: begin with + and the country code"


def _no_plus(digits: str) -> str:
    if digits.startswith("0") or len(digits) < _FEWEST_DIGITS:
        return _NO_PLUS
    return f"{_NO_PLUS}; a spreadsheet drops the +: {_AS_TEXT}"


_REASONS = {
    NumberParseException.INVALID_COUNTRY_CODE: "no such country code: begin with + and the country code",
    NumberParseException.TOO_SHORT_NSN: "too short",
    NumberParseException.TOO_SHORT_AFTER_IDD: "too short",
    NumberParseException.TOO_LONG: "too long",
}
_NOT_IN_USE = "not a number that is in use in its country"
_POSSIBLE = {
    ValidationResult.TOO_SHORT: "too short for its country",
    ValidationResult.TOO_LONG: "too long for its country",
    ValidationResult.INVALID_LENGTH: "too short or too long: its country has no numbers of that length",
    ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "too short: the area code is missing",
}
