"""Answers in JSON, one line each: with a line end, so that those of several curls don't run together."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from common.web.operations import JSON

_encode = msgspec.json.Encoder().encode


def json_answer(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None, media_type: str = JSON
) -> Response:
    """An answer; `body` is a value, or bytes that are JSON already."""
    said = body if isinstance(body, bytes) else _encode(body)
    return Response(said + b"\n", status, headers, media_type)
