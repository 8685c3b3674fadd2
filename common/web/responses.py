"""Responses: JSON on one line, and the bytes of HTTP/1.1."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from common.web.operations import JSON

_encode = msgspec.json.Encoder().encode


def json_response(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None, media_type: str = JSON
) -> Response:
    """A response of JSON and a line end; `body` is a value, or bytes that are JSON already."""
    content = body if isinstance(body, bytes) else _encode(body)
    return Response(content + b"\n", status, headers, media_type)


def status_line(status: int) -> bytes:
    """`HTTP/1.1 202 Accepted`, with its line end."""
    return b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())


def encoded(response: Response, added_fields: bytes = b"") -> bytes:
    """The rest of a response after status line and date: header fields, added header fields, body."""
    fields = b"".join([b"%b: %b\r\n" % field for field in response.raw_headers])
    return b"%b%b\r\n%b" % (fields, added_fields, bytes(response.body))
