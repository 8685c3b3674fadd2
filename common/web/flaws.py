"""What is wrong with a request, in words: all of it, each thing with its place, and never the value itself."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import Any

import msgspec
from msgspec import inspect

from common.web.problems import Flaw, Problem

# So many are named at most.
MOST_FLAWS = 100

# Says what is wrong with a value of the right type; None: nothing.
Check = Callable[[Any], str | None]

# Of a name that nobody knows no more is repeated than this, lest a number or a text stand there.
_NAME = re.compile(r"[A-Za-z_-]{1,30}")


def flaws_in(
    value: Any,
    kind: type[Any],
    where: str,
    checks: Mapping[str, Check] | None = None,
    strict: bool = True,
) -> list[Flaw]:
    """What keeps some JSON from being a `kind`, a Struct; `checks`, by field, look at what is of the right type.

    Not `strict`: it comes from a query, where all is text.
    """
    if not isinstance(value, dict):
        return [Flaw(where, "must be an object")]
    flaws: list[Flaw] = []
    fields = msgspec.structs.fields(kind)
    for field in fields:
        name, what = field.encode_name, None
        if name in value:
            what = _misfit(value[name], field.type, strict)
            if what is None and value[name] is not None and checks and name in checks:
                what = checks[name](value[name])
        elif field.required:
            what = "is missing"
        if what is not None:
            flaws.append(Flaw(f"{where}.{name}", what))
    return flaws + unknown(value, [field.encode_name for field in fields], where)


def unknown(names: Iterable[str], known: Collection[str], where: str) -> list[Flaw]:
    """A flaw for each name that is not known at this place, with what is."""
    what = f"is not known here, only {', '.join(known)}" if known else "is not known here: leave it out"
    found = (name for name in dict.fromkeys(names) if name not in known)
    return [
        Flaw(f"{where}.{name}", what) if _NAME.fullmatch(name) else Flaw(where, f"a name that {what}")
        for name in islice(found, MOST_FLAWS)
    ]


def refused(flaws: list[Flaw], and_so: str = "") -> Problem:
    """Problem 422: its detail says the first of the flaws, and how many more there are."""
    more = f" (and {len(flaws) - 1} more)" if len(flaws) > 1 else ""
    detail = f"{flaws[0].where}: {flaws[0].what}{more}{and_so and '; '}{and_so}"
    return Problem(422, detail, flaws[:MOST_FLAWS])


def no_json(error: Exception, body: bytes) -> str:
    """Why a body can't be read as JSON. msgspec's words hold nothing of the body; a UnicodeDecodeError's do."""
    if not body.strip():
        return "it is empty"
    if isinstance(error, UnicodeDecodeError) or "UTF-8" in str(error):  # msgspec 0.22; msgspec 0.23
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    what = str(error)
    return "it ends too early" if "truncated" in what else what.removeprefix("JSON is malformed: ")


def must_be(kind: Any) -> str:
    """What a value of a type must be: `must be a whole number from 1 to 1000`."""
    return f"must be {_words(inspect.type_info(kind))}"


def _misfit(value: Any, kind: Any, strict: bool) -> str | None:
    try:
        msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError:
        return must_be(kind)
    return None


def _words(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata(extra={"words": str(words)}):  # a pattern says little to people
            return words
        case inspect.Metadata(type=inner):
            return _words(inner)
        case inspect.UnionType(types=types):
            return " or ".join(_words(one) for one in types if not isinstance(one, inspect.NoneType))
        case inspect.StrType(min_length=least, max_length=most):
            return f"a string{_range(least, most, ' of', ' characters')}"
        case inspect.IntType(ge=least, le=most):
            return f"a whole number{_range(least, most)}"
        case inspect.FloatType(ge=least, le=most):
            return f"a number{_range(least, most)}"
        case inspect.BoolType():
            return "true or false"
        case inspect.EnumType(cls=choices):
            return " or ".join(str(choice.value) for choice in choices)
    raise TypeError(f"no words for {kind}")


def _range(least: float | None, most: float | None, of: str = "", unit: str = "") -> str:
    if most is None:
        return ""
    return (
        f"{of or ' from'} {least:g} to {most:,}{unit}" if least is not None else f"{of} up to {most:,}{unit}"
    )
