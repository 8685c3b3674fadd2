"""Request bodies: their type, their size, and what JSON they hold."""

from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from gateway.operations import JSON
from gateway.problems import Flaw, Problem
from gateway.schemas import where_of

T = TypeVar("T")

NDJSON = "application/x-ndjson"
SMALL_BYTES = 64 * 1024
LARGE_BYTES = 32 * 1024 * 1024


def media_type(request: Request, *allowed: str) -> str:
    """The body's media type. Problem 415 if it is none of those allowed.

    A page in a browser can't send these to another origin without asking first, which CORS then refuses.
    """
    kind, *parameters = (part.strip().lower() for part in request.headers.get("content-type", "").split(";"))
    if kind not in allowed:
        raise Problem(415, f"the body must be {' or '.join(allowed)}: say so in Content-Type")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            raise Problem(415, "the body must be UTF-8")
    return kind


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body. Problem 413 if it is over the limit."""
    return b"".join([chunk async for chunk in pieces(request, limit_bytes)])


async def pieces(request: Request, limit_bytes: int) -> AsyncIterator[bytes]:
    """The body as it arrives. Problem 413 once it is over the limit, at once where it says so itself."""
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > limit_bytes:
        raise _too_large(limit_bytes)
    read = 0
    try:
        async for chunk in request.stream():
            read += len(chunk)
            if read > limit_bytes:
                raise _too_large(limit_bytes)
            yield chunk
    except ClientDisconnect:
        raise Problem(400, "the body broke off") from None


def decoded(body: bytes | str, decoder: "msgspec.json.Decoder[T]", where: str = "body") -> T:
    """What a body says. Problem 400 for what is no JSON, 422 for JSON that says the wrong thing."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        found, what = where_of(error)
        raise Problem(422, f"{found}: {what}", [Flaw(found.replace("body", where, 1), what)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # A UnicodeDecodeError quotes the body.
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error) or "nested too deep"
        raise Problem(400, f"{where} is no JSON: {what}", [Flaw(where, what)]) from None


async def decoded_body(request: Request, decoder: "msgspec.json.Decoder[T]") -> T:
    """What a small JSON body says."""
    media_type(request, JSON)
    return decoded(await read_body(request, SMALL_BYTES), decoder)


def _too_large(limit_bytes: int) -> Problem:
    return Problem(413, f"the body is over {limit_bytes} bytes: send less at a time")
