"""Operations: each HTTP endpoint with all that is to be known of it.

The routes and the OpenAPI document are both made from this, so that neither can say what the other does not.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

JSON = "application/json"

# How long a request may take, unless its operation says otherwise; then it is answered 503.
DEADLINE_S = 15.0
# When a client that was answered 503 should try again.
RETRY_AFTER_S = 2.0


class Scope(StrEnum):
    """What an API key allows."""

    SEND = "send"
    READ = "read"


@dataclass(frozen=True)
class Parameter:
    """A path, query or header parameter. `kind` is a type that msgspec can make a JSON schema of."""

    name: str
    where: str  # "path", "query" or "header"
    description: str
    kind: Any = str
    example: Any = None
    required: bool = False


@dataclass(frozen=True)
class Body:
    """A request's body: the type of it by media type, with examples by name."""

    types: Mapping[str, Any]
    examples: Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True)
class Answer:
    """One answer: what it means, the type of its body (None: it has none), and an example."""

    description: str
    kind: Any = None
    example: Any = None
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """One method of one path. `scope` None: open to everybody. Problems that its handler raises are in `answers` too;
    those that any operation may come to (401, 403, 429, 500, 503) are added by whoever makes the document.
    """

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    scope: Scope | None
    tag: str
    summary: str
    answers: Mapping[int, Answer]
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    deadline_s: float = DEADLINE_S
