"""The OpenAPI 3.1 document, made from the operations. The answers that all of them share are added here."""

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from common.web import problems
from common.web.bodies import NDJSON
from common.web.operations import Answer, Body, Operation, Parameter, Scope
from common.web.problems import FieldError, ProblemBody

ABOUT = (
    "Sends SMS and reports what became of them.\n\nErrors are `application/problem+json` (RFC 9457): `detail` is what"
    " is wrong and what to do, `errors` where. An unknown path is answered 404, an unknown method 405."
    " A WebSocket at `/events` sends the live events too."
)
KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer <API key>`"},
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "`X-API-Key: <API key>`",
    },
}
EVENT_STREAM = "text/event-stream"

Json = dict[str, Any]
Answers = Mapping[int, Answer]

_RETRY_AFTER = {"Retry-After": "how many seconds to wait before trying again"}
_ANY_OPERATION = {
    400: Answer("The body is no JSON, or a query parameter or a header field is there twice"),
    421: Answer("This host name is not served"),
    422: Answer("The request has invalid values, or unknown names: `errors` lists them and where they are"),
    500: Answer("A fault of the gateway, which is in its log"),
    503: Answer(
        "RabbitMQ or Redis is away, and nothing was done; or the gateway is stopping, and nobody knows what became of"
        " the request",
        headers=_RETRY_AFTER,
    ),
}
_WITH_BODY = {
    408: Answer("The body did not arrive in time"),
    413: Answer("The body is too large"),
    415: Answer("The body is of another media type, compressed, or not UTF-8"),
}


def document(operations: Sequence[Operation], version: str) -> Json:
    """The document as JSON. Raises TypeError for a type that has no JSON schema."""
    answers = {id(operation): {**_common(operation), **operation.answers} for operation in operations}
    kinds = [kind for operation in operations for kind in _kinds(operation, answers[id(operation)])]
    schemas = Schemas(kinds)
    paths: dict[str, Json] = {}
    for operation in operations:
        described = _operation(operation, answers[id(operation)], schemas)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SMS simulator",
            "version": version,
            "description": ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": paths,
        "components": {"schemas": schemas.components, "securitySchemes": KEYS},
    }


def operation_id(operation: Operation) -> str:
    """The operation's name in generated clients: `getSmsByUuid` for GET /sms/{uuid}."""
    words = re.findall(r"[a-z0-9]+", operation.path.lower().replace("{", "by-"))
    return operation.method.lower() + "".join(word.title() for word in words)


class Schemas:
    """The JSON schemas of some types. Structs and enums are components, and referred to.

    Attributes:
        components: Their schemas, by name.
    """

    def __init__(self, kinds: Sequence[Any]) -> None:
        # All at once, so that msgspec tells two types of one name apart. By identity, since a type with annotations
        # can't always be hashed.
        self._kinds = kinds
        found, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
        self._found = {id(kind): _portable(schema) for kind, schema in zip(kinds, found, strict=True)}
        self.components: Json = _portable(components)

    def of(self, kind: Any) -> Json:
        """The schema of a type."""
        found: Json = self._found[id(kind)]
        return found


def _common(operation: Operation) -> dict[int, Answer]:
    """The answers that an operation shares with others."""
    answers = dict(_ANY_OPERATION)
    if operation.scope is not None:
        answers[401] = Answer("No valid API key", headers={"WWW-Authenticate": "`Bearer`"})
        lacks = f"The API key lacks the scope `{operation.scope}`, or the page's origin is foreign"
        answers[403] = Answer(lacks)
    if operation.scope is Scope.SEND:
        answers[429] = Answer("Too much at once", headers=_RETRY_AFTER)
    if operation.body is not None:
        answers |= _WITH_BODY
    return answers


def _kinds(operation: Operation, answers: Answers) -> Iterator[Any]:
    """Every type in an operation."""
    yield from (parameter.kind for parameter in operation.parameters)
    if operation.body is not None:
        yield from operation.body.types.values()
    yield from (_kind_of(status, answer) for status, answer in answers.items())


def _kind_of(status: int, answer: Answer) -> Any:
    """The type of an answer's body, a problem for errors; None: it has no body."""
    return ProblemBody if answer.kind is None and status >= 400 else answer.kind


def _operation(operation: Operation, answers: Answers, schemas: Schemas) -> Json:
    scope = operation.scope
    scopes = f"scopes `{scope}` and `{Scope.ALL}`" if operation.of_all else f"scope `{scope}`"
    needs = f"Needs an API key with the {scopes}." if scope else "Needs no API key."
    described: Json = {
        "operationId": operation_id(operation),
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": f"{operation.description}\n\n{needs}".lstrip(),
        "security": [{name: [scope.value]} for name in KEYS] if scope else [],
        "parameters": [_parameter(parameter, schemas) for parameter in operation.parameters],
        "responses": {str(status): _answer(status, answers[status], schemas) for status in sorted(answers)},
    }
    if operation.body is not None:
        described["requestBody"] = _body(operation.body, schemas)
    return described


def _parameter(parameter: Parameter, schemas: Schemas) -> Json:
    described: Json = {
        "name": parameter.name,
        "in": parameter.where,
        "description": parameter.description,
        "required": parameter.required or parameter.where == "path",
        "schema": schemas.of(parameter.kind),
    }
    if parameter.example is not None:
        described["example"] = msgspec.to_builtins(parameter.example)
    return described


def _body(body: Body, schemas: Schemas) -> Json:
    content: Json = {}
    for media_type, kind in body.types.items():
        values = {name: msgspec.to_builtins(example) for name, example in body.examples.items()}
        schema = schemas.of(kind)
        if media_type == NDJSON:
            schema = _lines_schema(schema)
            values = {name: _lines(value) for name, value in values.items()}
        examples = {name: {"value": value} for name, value in values.items()}
        content[media_type] = {"schema": schema, "examples": examples}
    described: Json = {"required": True, "content": content}
    if body.description:
        described["description"] = body.description
    return described


def _lines_schema(schema: Json) -> Json:
    """For NDJSON: as a whole it is not JSON, so that no schema describes it. Generated clients skip an array here."""
    kind = schema["$ref"].rpartition("/")[2]
    about = f"one {kind} a line, as JSON, with neither brackets nor commas"
    return {"type": "string", "minLength": 1, "description": about}


def _answer(status: int, answer: Answer, schemas: Schemas) -> Json:
    described: Json = {"description": answer.description}
    if answer.headers:
        described["headers"] = {name: _header(name, about) for name, about in answer.headers.items()}
    kind = _kind_of(status, answer)
    if kind is None:
        return described
    example, media_type = answer.example, answer.media_type
    if kind is ProblemBody:
        example, media_type = example or _problem(status, answer), problems.MEDIA_TYPE
    # No schema of OpenAPI 3.1 describes the items of a stream of events; 3.2 will call it itemSchema.
    schema = "x-itemSchema" if media_type == EVENT_STREAM else "schema"
    described["content"] = {media_type: {schema: schemas.of(kind), "example": msgspec.to_builtins(example)}}
    return described


def _header(name: str, about: str) -> Json:
    kind = "integer" if name == "Retry-After" else "string"
    return {"description": about, "schema": {"type": kind}}


def _problem(status: int, answer: Answer) -> ProblemBody:
    """An example of a problem."""
    errors = [FieldError("body.number", "too short for its country")] if status == 422 else []
    return ProblemBody("about:blank", HTTPStatus(status).phrase, status, answer.description, errors)


def _lines(items: list[Any]) -> str:
    return "".join(msgspec.json.encode(item).decode() + "\n" for item in items)


def _portable(schema: Any) -> Any:
    r"""A schema with patterns as JSON Schema has them: ECMA 262 has no `\Z`, and `$` means the same."""
    match schema:
        case {"pattern": str(pattern), **rest}:
            return {"pattern": pattern.replace(r"\Z", "$"), **_portable(rest)}
        case dict():
            return {key: _portable(value) for key, value in schema.items()}
        case list():
            return [_portable(item) for item in schema]
    return schema
