"""Operations: each HTTP endpoint as data. The routes and the OpenAPI document are made from the same table."""

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
    """Permissions of an API key. A key without ALL sees and cancels its own messages and runs only."""

    SEND = "send"
    READ = "read"
    ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A path, query or header parameter.

    Attributes:
        name: Its name.
        where: `path`, `query` or `header`.
        description: For the document.
        kind: A type that msgspec can make a JSON schema of.
        example: For the document.
        required: Whether it must be given.
        many: Whether it may be given more than once.
    """

    name: str
    where: str
    description: str
    kind: Any = str
    example: Any = None
    required: bool = False
    many: bool = False


@dataclass(frozen=True)
class Body:
    """The body of a request.

    Attributes:
        types: Its type, by media type.
        examples: By name.
        description: For the document.
    """

    types: Mapping[str, Any]
    examples: Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True)
class Answer:
    """One answer of an operation.

    Attributes:
        description: When it is given.
        kind: The type of its body; None: it has none.
        example: For the document.
        media_type: Of its body.
        headers: Their descriptions, by name.
    """

    description: str
    kind: Any = None
    example: Any = None
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        method: The HTTP method.
        path: The path, with parameters in braces.
        handler: Answers a request.
        scope: The permission that the API key needs; None: no key is needed.
        of_all: Whether it shows what concerns all keys, so that the key needs the scope ALL as well.
        tag: The group in the document.
        summary: For the document.
        description: For the document.
        parameters: Those of the path, the query and the header.
        body: The body of a request.
        answers: By status. Those that operations share (401, 403, 429, 500, 503) are added for the document.
        deadline_s: How long a request may take.
    """

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    scope: Scope | None
    tag: str
    summary: str
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    answers: Mapping[int, Answer]
    deadline_s: float = DEADLINE_S
    of_all: bool = False
