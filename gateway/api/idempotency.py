"""The header Idempotency-Key (draft-ietf-httpapi-idempotency-key-header)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from starlette.requests import Request

from common.web.operations import Parameter
from common.web.problems import FieldError
from common.web.validation import invalid, repeated
from gateway.acceptance.port import IdempotencyKey
from gateway.acceptance.receipts import KEY_HEADER

LONGEST_KEY = 255
REPLAYED = "Idempotent-Replayed"

PARAMETER = Parameter(
    name=KEY_HEADER,
    where="header",
    description="Makes it safe to send the request again: the same key gives the same message, which is sent once."
    f" Kept for a day. A response to a repeated request has the header {REPLAYED}. The same key with a request that"
    " says something else is refused with 422.",
    example="8e03978e-40d5-43dd-bc93-6894a57f9324",
)


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a request.

    Attributes:
        method: The HTTP method.
        path: The path of the URL.
    """

    method: str
    path: str


def key_of(values: Sequence[str], *, caller: str, target: Target, said: object) -> IdempotencyKey | None:
    """The key of a request whose header has these values; None if it has none. Raises Problem 400 or 422.

    `caller` is the id of its API key. `said` is what the request says, as something that JSON can hold: the same thing
    written otherwise is the same request.
    """
    if not values:
        return None
    if len(values) > 1:
        raise repeated(f"header.{KEY_HEADER}")
    key = values[0]
    if not key or len(key) > LONGEST_KEY:
        raise invalid([FieldError(f"header.{KEY_HEADER}", f"must have 1 to {LONGEST_KEY} characters")])
    request = hashlib.sha256(f"{target.method}\n{target.path}\n".encode())
    request.update(msgspec.json.encode(said))
    return IdempotencyKey(caller, hashlib.sha256(key.encode()).hexdigest(), request.hexdigest())


def key_of_request(request: Request, said: object) -> IdempotencyKey | None:
    """The same, of a request of the framework."""
    values = request.headers.getlist(KEY_HEADER)
    target = Target(request.method, request.url.path)
    return key_of(values, caller=request.state.caller.id, target=target, said=said)


def replayed_headers(is_replayed: bool) -> dict[str, str]:
    """The header of a response to a repeated request."""
    return {REPLAYED: "true"} if is_replayed else {}
