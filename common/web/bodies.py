"""Request bodies: their type, their size, and the JSON in them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from common import strict_json
from common.strict_json import has_names_once
from common.web.operations import JSON
from common.web.problems import FieldError, Problem
from common.web.validation import Check, field_errors, invalid, named_error, repeated

T = TypeVar("T")

NDJSON = "application/x-ndjson"
SMALL_BYTES = 64 * 1024
LARGE_BYTES = 32 * 1024 * 1024
# Less than a request may take, so that a slow client is not told that a server is away.
READ_WITHIN_S = 10.0

# Takes this many bytes of a budget, or raises Problem 429.
Take = Callable[[int], None]

_UNREADABLE = "can't be read: a text was cut within a character, such as an emoji (half of a surrogate pair)"
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_anything: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


class Budget:
    """How many bytes of bodies may be in memory at once.

    Bytes count when they arrive, not when they are announced: a slow client keeps no room from others.

    Attributes:
        used_bytes: How many are in memory.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.used_bytes = 0

    @contextlib.contextmanager
    def share(self) -> Iterator[Take]:
        """The share of one body, which is returned at the end."""
        taken = 0

        def take(more: int) -> None:
            nonlocal taken
            if self.used_bytes + more > self._most_bytes:
                what = "too much is being sent at once: wait for some to be answered"
                raise Problem(429, what, retry_after_s=1)
            self.used_bytes += more
            taken += more

        try:
            yield take
        finally:
            self.used_bytes -= taken


def media_type(request: Request, *allowed: str) -> str:
    """The body's media type. Raises Problem 415 for another one and for compressed bodies, 400 for two.

    A browser does not send these types to another origin without asking first, which CORS then refuses.
    """
    if len(request.headers.getlist("content-type")) > 1:
        raise repeated("header.Content-Type")
    kind, *parameters = (part.strip().lower() for part in request.headers.get("content-type", "").split(";"))
    if kind not in allowed:
        raise Problem(415, f"the body must be {' or '.join(allowed)}: say so in Content-Type")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            raise Problem(415, "the body must be UTF-8")
    if request.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        what = "the body must not be compressed: send it as it is, without Content-Encoding"
        raise Problem(415, what, headers={"Accept-Encoding": "identity"})
    return kind


async def read_body(request: Request, limit_bytes: int, within_s: float = READ_WITHIN_S) -> bytes:
    """The whole body. Raises Problem 413 if it is over the limit, and Problem 408 if it does not arrive in time."""
    try:
        async with asyncio.timeout(within_s):
            return b"".join([chunk async for chunk in pieces(request, limit_bytes)])
    except TimeoutError:
        raise Problem(408, f"the body did not arrive within {within_s:g} s: send it again") from None


async def pieces(request: Request, limit_bytes: int, take: Take | None = None) -> AsyncIterator[bytes]:
    """The body as it arrives; `take` is called for each piece.

    Raises Problem 413 once it is over the limit, at once if Content-Length is.
    """
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit_bytes:
        raise _too_large(limit_bytes)
    read = 0
    try:
        async for chunk in request.stream():
            read += len(chunk)
            if read > limit_bytes:
                raise _too_large(limit_bytes)
            if take is not None:
                take(len(chunk))
            yield chunk
    except ClientDisconnect:
        raise Problem(400, "the body broke off") from None


async def decoded_body(request: Request, decoder: "msgspec.json.Decoder[T]") -> T:
    """A small JSON body. Raises the Problems of `media_type`, `read_body` and `decoded`."""
    media_type(request, JSON)
    return decoded(await read_body(request, SMALL_BYTES), decoder)


def decoded(
    body: bytes,
    decoder: "msgspec.json.Decoder[T]",
    where: str = "body",
    checks: Mapping[str, Check] | None = None,
    strings: Callable[[T], int] | None = None,
) -> T:
    """The value of a body. Raises Problem 400 if it is not JSON, and Problem 422 with all errors in its JSON."""
    value = decoded_or_errors(body, decoder, where, checks, strings=strings)
    if isinstance(value, list):
        raise invalid(value)
    return value


def decoded_or_errors(
    body: bytes,
    decoder: "msgspec.json.Decoder[T]",
    where: str,
    checks: Mapping[str, Check] | None = None,
    *,
    strings: Callable[[T], int] | None = None,
) -> T | list[FieldError]:
    """The value of some JSON, or the errors in it; `checks` are those of `field_errors`. Raises Problem 400.

    `strings` gives how many strings JSON for a value has at least: where there are no more, no name is twice.
    """
    value: T | None = None
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = decoder.decode(body)
        if strings is not None and has_names_once(body, strings(value)):
            return value
    try:
        anything = strict_json.read(body)
    except strict_json.NameTwice as twice:
        return [named_error(where, twice.name, "is there twice: give it once")]
    except (ValueError, RecursionError):
        return _unread(body, where)
    if value is not None:
        return value
    return field_errors(anything, decoder.type, where, checks) or [FieldError(where, _UNREADABLE)]


def _unread(body: bytes, where: str) -> list[FieldError]:
    """Why some JSON can't be read, in words of msgspec where it is none. Raises Problem 400."""
    try:
        _anything.decode(body)
    except msgspec.ValidationError:  # any other value is accepted here
        pass
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(error, body, where) from None
    return [FieldError(where, "a number in it is too large")]


def not_json(error: Exception, body: bytes, where: str = "body") -> Problem:
    """Problem 400 for a body that is not JSON."""
    what = f"is no JSON: {_reason(error, body)}"
    return Problem(400, f"{where} {what}", [FieldError(where, what)])


def _reason(error: Exception, body: bytes) -> str:
    """Why a body is not JSON. msgspec's messages repeat nothing of the body; those of UnicodeDecodeError do."""
    if not body.strip():
        return "it is empty"
    if body.startswith(_MARKS):
        return "it begins with a byte order mark: send UTF-8 without one"
    if isinstance(error, UnicodeDecodeError) or "UTF-8" in str(error):  # msgspec 0.22; msgspec 0.23
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    reason = str(error)
    return "it ends too early" if "truncated" in reason else reason.removeprefix("JSON is malformed: ")


def _too_large(limit_bytes: int) -> Problem:
    return Problem(413, f"the body is over {limit_bytes} bytes: send less at a time")
