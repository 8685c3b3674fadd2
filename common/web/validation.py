"""Validation of request bodies and queries: every error with its place, in words, and without the value.

msgspec names the first error only. A client that mistypes three fields should not need three requests.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import Any

import msgspec
from msgspec import inspect

from common.web.problems import FieldError, Problem

# No more errors are listed for a request.
MOST_ERRORS = 100

# Checks a value of the right type: gives the error, or None.
Check = Callable[[Any], str | None]

# A number or a text may stand in the place of a name.
_NAME = re.compile(r"[A-Za-z_-]{1,30}")


def field_errors(
    value: Any,
    kind: Any,
    where: str,
    checks: Mapping[str, Check] | None = None,
    strict: bool = True,
) -> list[FieldError]:
    """The errors in a JSON value that should be a `kind`, a Struct. `checks`, by field, see values of the right type.

    A query is not `strict`: all its values are text.
    """
    if not isinstance(value, dict):
        return [FieldError(where, "must be an object")]
    fields = msgspec.structs.fields(kind)
    found = [(field.encode_name, _error_in(field, value, checks or {}, strict)) for field in fields]
    errors = [FieldError(f"{where}.{name}", what) for name, what in found if what is not None]
    return errors + unknown_names(value, [field.encode_name for field in fields], where)


def failed_checks(value: msgspec.Struct, checks: Mapping[str, Check], where: str) -> list[FieldError]:
    """The errors that the checks find in a value of the right type."""
    given = ((name, getattr(value, name)) for name in checks)
    found = ((name, checks[name](one)) for name, one in given if one is not None)
    return [FieldError(f"{where}.{name}", what) for name, what in found if what is not None]


def unknown_names(names: Iterable[str], known: Collection[str], where: str) -> list[FieldError]:
    """An error for each unknown name, which lists the known ones."""
    what = f"is not known here, only {', '.join(known)}" if known else "is not known here: leave it out"
    found = (name for name in dict.fromkeys(names) if name not in known)
    return [named_error(where, name, what) for name in islice(found, MOST_ERRORS)]


def named_error(where: str, name: str, what: str) -> FieldError:
    """An error of a name that the client chose: it is repeated only if it looks like a name."""
    if _NAME.fullmatch(name):
        return FieldError(f"{where}.{name}", what)
    return FieldError(where, f"a name that {what}")


def invalid(errors: list[FieldError], effect: str = "") -> Problem:
    """Problem 422. Its detail is the first error, how many more there are, and the `effect` on the request."""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    detail = f"{errors[0].where}: {errors[0].what}{more}"
    if effect:
        detail += f"; {effect}"
    return Problem(422, detail, errors[:MOST_ERRORS])


def repeated(where: str) -> Problem:
    """Problem 400 for a header field or a query parameter that is there more than once."""
    what = "is there more than once: give it once"
    return Problem(400, f"{where}: {what}", [FieldError(where, what)])


def must_be(kind: Any) -> str:
    """Describes the values of a type: `must be a whole number from 1 to 1000`."""
    return f"must be {_words(inspect.type_info(kind))}"


def _error_in(
    field: msgspec.structs.FieldInfo, value: dict[str, Any], checks: Mapping[str, Check], strict: bool
) -> str | None:
    """The error in one field of an object, or None."""
    name = field.encode_name
    if name not in value:
        return "is missing" if field.required else None
    try:
        msgspec.convert(value[name], field.type, strict=strict)
    except msgspec.ValidationError:
        return must_be(field.type)
    if value[name] is None or name not in checks:
        return None
    return checks[name](value[name])


def _words(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata(extra={"words": str(words)}):  # in place of a pattern
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
    if least is None:
        return f"{of} up to {most:,}{unit}"
    return f"{of or ' from'} {least:g} to {most:,}{unit}"
