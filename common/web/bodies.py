"""Request bodies: their type, their size, and what JSON they hold."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from common.web.flaws import Check, flaws_in, no_json, refused
from common.web.operations import JSON
from common.web.problems import Flaw, Problem

T = TypeVar("T")

_anything: msgspec.json.Decoder[Any] = msgspec.json.Decoder()

NDJSON = "application/x-ndjson"
# Less than a request may take, so that a slow client is not told that a server is away.
READ_WITHIN_S = 10.0
SMALL_BYTES = 64 * 1024
LARGE_BYTES = 32 * 1024 * 1024

# Takes so many bytes more of a budget, or raises Problem 429.
Take = Callable[[int], None]


class Budget:
    """How many bytes of bodies may be in hand at once. They count as they come, not as they are announced: a client
    that sends slowly keeps no room from others.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.in_hand_bytes = 0

    @contextlib.contextmanager
    def share(self) -> Iterator[Take]:
        """One body's part of it, given back at the end."""
        mine = 0

        def take(more: int) -> None:
            nonlocal mine
            if self.in_hand_bytes + more > self._most_bytes:
                raise Problem(
                    429, "too much is being sent at once: wait for some to be answered", retry_after_s=1
                )
            self.in_hand_bytes += more
            mine += more

        try:
            yield take
        finally:
            self.in_hand_bytes -= mine


def media_type(request: Request, *allowed: str) -> str:
    """The body's media type. Problem 415 if it is none of those allowed, or the body is compressed.

    A page in a browser can't send these to another origin without asking first, which CORS then refuses.
    """
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
    """The body as it arrives; `take` is asked for each piece. Problem 413 once it is over the limit, at once where it
    says so itself.
    """
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > limit_bytes:
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


def decoded(
    body: bytes,
    decoder: "msgspec.json.Decoder[T]",
    where: str = "body",
    checks: Mapping[str, Check] | None = None,
) -> T:
    """What a body says. Problem 400 for what is no JSON, 422 for JSON that says the wrong thing: all that is wrong."""
    said = decoded_or_flaws(body, decoder, where, checks)
    if isinstance(said, list):
        raise refused(said)
    return said


def decoded_or_flaws(
    body: bytes, decoder: "msgspec.json.Decoder[T]", where: str, checks: Mapping[str, Check] | None = None
) -> T | list[Flaw]:
    """What some JSON says, or what is wrong with it; `checks` as `flaws_in` has it. Problem 400 for what is no JSON."""
    said = decoded_or_none(body, decoder, where)
    if said is not None:
        return said
    try:
        value = _decoded(body, _anything, where)
    except msgspec.ValidationError:  # of what may be anything, only a number can be wrong
        return [Flaw(where, "a number in it is too large")]
    flaws = flaws_in(value, decoder.type, where, checks)
    return flaws or [Flaw(where, "can't be read: some name stands in it twice")]


def decoded_or_none(body: bytes, decoder: "msgspec.json.Decoder[T]", where: str = "body") -> T | None:
    """What some JSON says; None if that is the wrong thing. Problem 400 for what is no JSON."""
    try:
        return _decoded(body, decoder, where)
    except msgspec.ValidationError:
        return None


def not_json(error: Exception, body: bytes, where: str = "body") -> Problem:
    """Problem 400 for what can't be read as JSON."""
    what = f"is no JSON: {no_json(error, body)}"
    return Problem(400, f"{where} {what}", [Flaw(where, what)])


async def decoded_body(request: Request, decoder: "msgspec.json.Decoder[T]") -> T:
    """What a small JSON body says."""
    media_type(request, JSON)
    return decoded(await read_body(request, SMALL_BYTES), decoder)


def _decoded(body: bytes, decoder: "msgspec.json.Decoder[T]", where: str) -> T:
    """What some JSON says. msgspec.ValidationError if that is the wrong thing, Problem 400 for what is no JSON."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(error, body, where) from None


def _too_large(limit_bytes: int) -> Problem:
    return Problem(413, f"the body is over {limit_bytes} bytes: send less at a time")
