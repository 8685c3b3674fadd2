"""Recognises valid numbers in E.164 form without a call of the phonenumbers library, which takes 13 to 35 µs a number.

For each country calling code and length there is a regular expression, made of the library's own patterns. Numbers that
do not match are left to the library.
"""

import re
from collections.abc import Sequence
from functools import cache

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata
from phonenumbers.phonemetadata import PhoneNumberDesc

# As in common.messages.E164_PATTERN, with the plus sign. ITU-T E.164 allows 15 digits at most.
_MIN_CHARS, _MAX_CHARS = 1 + 7, 1 + 15

# The kinds of valid numbers in the library, except `mobile`: see _of_region.
KINDS = (
    "premium_rate",
    "toll_free",
    "shared_cost",
    "voip",
    "personal_number",
    "pager",
    "uan",
    "voicemail",
    "fixed_line",
)

_NONE = "(?!)"  # matches nothing
_NO_NUMBER = re.compile(_NONE)
_CODES = {str(code) for code in COUNTRY_CODE_TO_REGION_CODE}


def is_plain(number: str) -> bool:
    """Whether it is a valid number in E.164, and parsing leaves it as it stands; False where that is not sure."""
    # Calling codes have one to three digits, and none begins like another.
    if (code := number[1:3]) in _CODES or (code := number[1:4]) in _CODES or (code := number[1:2]) in _CODES:
        return patterns_of_code(code).get(len(number), _NO_NUMBER).fullmatch(number) is not None
    return False


@cache
def patterns_of_code(code: str) -> dict[int, re.Pattern[str]]:
    """The patterns of a calling code."""
    regions = COUNTRY_CODE_TO_REGION_CODE[int(code)]
    plans = (PhoneMetadata.metadata_for_region_or_calling_code(int(code), region) for region in regions)
    return patterns(code, [plan for plan in plans if plan is not None])


def patterns(code: str, plans: Sequence[PhoneMetadata]) -> dict[int, re.Pattern[str]]:
    """Patterns by length in characters, for the valid numbers of a calling code that parsing does not change.

    It follows parse() and is_valid_number() of the library's phonenumberutil.py.
    """
    # National prefixes are those of the first region. A number that may begin with one is left to the library.
    prefix = plans[0].national_prefix_for_parsing
    begins = rf"\+{code}" + (rf"(?!(?:{prefix})(?<!\+{code}))" if prefix else "")
    return {
        chars: re.compile(begins + _of_regions(plans, chars - 1 - len(code)), re.ASCII)
        for chars in range(_MIN_CHARS, _MAX_CHARS + 1)
    }


def _of_regions(plans: Sequence[PhoneMetadata], digits: int) -> str:
    """A pattern of the valid national numbers with this many digits.

    With several regions, a number belongs to the first region whose leading digits it has, or, if that has none, in
    which it is valid; and it must be valid there.
    """
    if len(plans) == 1:
        return _of_region(plans[0], digits)
    pattern = _NONE
    for plan in reversed(plans):
        valid, leading = _of_region(plan, digits), plan.leading_digits
        pattern = (
            rf"(?:(?={leading}){valid}|(?!{leading}){pattern})" if leading else rf"(?:{valid}|{pattern})"
        )
    return pattern


def _of_region(plan: PhoneMetadata, digits: int) -> str:
    kinds = [plan.mobile, *(getattr(plan, kind) for kind in KINDS)]
    if plan.same_mobile_and_fixed_line_pattern:
        del kinds[0]  # as the library does: then the lengths of fixed lines hold for both
    found = dict.fromkeys(filter(None, (_of_kind(kind, digits) for kind in kinds)))
    in_general = _of_kind(plan.general_desc, digits)
    return rf"(?={in_general}\Z)(?:{'|'.join(found)})" if in_general and found else _NONE


def _of_kind(kind: PhoneNumberDesc | None, digits: int) -> str | None:
    if kind is None or not kind.national_number_pattern:
        return None
    if kind.possible_length and digits not in kind.possible_length:
        return None
    return f"(?:{kind.national_number_pattern})"
