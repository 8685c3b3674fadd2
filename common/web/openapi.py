"""The OpenAPI 3.1 document, made from the table of operations.

An operation says what is its own. What many or all of them may answer, and how keys are sent, is added here.
"""

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
    "Sends SMS and says what became of them.\n\nErrors are `application/problem+json` (RFC 9457): `detail` says what is"
    " wrong and what to do, `errors` where. A path that is not here is answered 404, a method that it has not 405."
    " The live events come from a WebSocket at `/events` too."
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
RETRY_AFTER = {"Retry-After": "how many seconds to wait before trying again"}

Json = dict[str, Any]
Answers = Mapping[int, Answer]


def document(operations: Sequence[Operation], version: str) -> Json:
    """The document, as JSON has it. Raises TypeError for a type that no JSON schema can be made of."""
    table = [(operation, {**_common(operation), **operation.answers}) for operation in operations]
    schemas = Schemas([kind for operation, answers in table for kind in _kinds(operation, answers)])
    paths: dict[str, Json] = {}
    for operation, answers in table:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, answers, schemas
        )
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


class Schemas:
    """The JSON schemas of some types. Structs and enums are components, and referred to."""

    def __init__(self, kinds: Sequence[Any]) -> None:
        # All at once, so that msgspec sees two types of one name. They are told apart by identity, since a type with
        # annotations can't always be hashed.
        self._kinds = kinds
        found, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
        self._found = {id(kind): _portable(schema) for kind, schema in zip(kinds, found, strict=True)}
        self.components: Json = _portable(components)

    def of(self, kind: Any) -> Json:
        """The schema of a type."""
        found: Json = self._found[id(kind)]
        return found


def operation_id(operation: Operation) -> str:
    """What generated clients call it: `getSmsByUuid` for GET /sms/{uuid}."""
    words = re.findall(r"[a-z0-9]+", operation.path.lower().replace("{", "by-"))
    return operation.method.lower() + "".join(word.title() for word in words)


def _kinds(operation: Operation, answers: Answers) -> Iterator[Any]:
    """Every type that the operation speaks of."""
    yield from (parameter.kind for parameter in operation.parameters)
    if operation.body is not None:
        yield from operation.body.types.values()
    yield from (_kind_of(status, answer) for status, answer in answers.items())


def _kind_of(status: int, answer: Answer) -> Any:
    """The type of an answer's body: of an error that says nothing else, a problem. None: it has no body."""
    return ProblemBody if answer.kind is None and status >= 400 else answer.kind


def _common(operation: Operation) -> dict[int, Answer]:
    """What an operation may answer besides what it says itself."""
    answers = {
        421: Answer("This host name is not served"),
        422: Answer(
            "The request can be read, and says what it must not, or what is not known here: `errors` names what and"
            " where"
        ),
        500: Answer("A fault of the gateway, which is in its log"),
        503: Answer(
            "RabbitMQ or Redis is away, and nothing was done; or the gateway stops, and what became of it is not known",
            headers=RETRY_AFTER,
        ),
    }
    if operation.scope is not None:
        answers[401] = Answer("No API key, or none in force", headers={"WWW-Authenticate": "`Bearer`"})
        answers[403] = Answer(
            f"The API key lacks the scope `{operation.scope}`, or the page's origin is foreign"
        )
    if operation.scope is Scope.SEND:
        answers[429] = Answer("Too much at once", headers=RETRY_AFTER)
    if operation.body is not None:
        answers[400] = Answer("The body is no JSON")
        answers[408] = Answer("The body did not arrive in time")
        answers[413] = Answer("The body is too large")
        answers[415] = Answer("The body is of another media type, compressed, or not UTF-8")
    return answers


def _operation(operation: Operation, answers: Answers, schemas: Schemas) -> Json:
    needs = (
        f"Needs an API key with the scope `{operation.scope}`." if operation.scope else "Needs no API key."
    )
    said: Json = {
        "operationId": operation_id(operation),
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": f"{operation.description}\n\n{needs}".lstrip(),
        "security": [{name: [operation.scope.value]} for name in KEYS] if operation.scope else [],
        "parameters": [_parameter(parameter, schemas) for parameter in operation.parameters],
        "responses": {str(status): _answer(status, answers[status], schemas) for status in sorted(answers)},
    }
    if operation.body is not None:
        said["requestBody"] = _body(operation.body, schemas)
    return said


def _parameter(parameter: Parameter, schemas: Schemas) -> Json:
    said: Json = {
        "name": parameter.name,
        "in": parameter.where,
        "description": parameter.description,
        "required": parameter.required or parameter.where == "path",
        "schema": schemas.of(parameter.kind),
    }
    if parameter.example is not None:
        said["example"] = msgspec.to_builtins(parameter.example)
    return said


def _body(body: Body, schemas: Schemas) -> Json:
    content: Json = {}
    for media_type, kind in body.types.items():
        values = {name: msgspec.to_builtins(example) for name, example in body.examples.items()}
        schema = schemas.of(kind)
        if media_type == NDJSON:
            # As a whole it is no JSON, so that no schema describes it; generated clients skip an array here.
            about = (
                f"one {schema['$ref'].rpartition('/')[2]} a line, as JSON, with neither brackets nor commas"
            )
            schema = {"type": "string", "minLength": 1, "description": about}
            values = {name: _lines(value) for name, value in values.items()}
        content[media_type] = {
            "schema": schema,
            "examples": {name: {"value": value} for name, value in values.items()},
        }
    return {
        "required": True,
        "content": content,
        **({"description": body.description} if body.description else {}),
    }


def _answer(status: int, answer: Answer, schemas: Schemas) -> Json:
    said: Json = {"description": answer.description}
    if answer.headers:
        said["headers"] = {
            name: {"description": about, "schema": {"type": "integer" if name == "Retry-After" else "string"}}
            for name, about in answer.headers.items()
        }
    kind = _kind_of(status, answer)
    if kind is None:
        return said
    example, media_type = answer.example, answer.media_type
    if kind is ProblemBody:
        example, media_type = example or _problem(status, answer), problems.MEDIA_TYPE
    # No schema of OpenAPI 3.1 describes the items of a stream of events; 3.2 will call it itemSchema.
    schema = "x-itemSchema" if media_type == EVENT_STREAM else "schema"
    said["content"] = {media_type: {schema: schemas.of(kind), "example": msgspec.to_builtins(example)}}
    return said


def _problem(status: int, answer: Answer) -> ProblemBody:
    """An example of a problem."""
    errors = [FieldError("body.number", "too short for its country")] if status == 422 else []
    return ProblemBody("about:blank", HTTPStatus(status).phrase, status, answer.description, errors)


def _lines(items: list[Any]) -> str:
    return "".join(msgspec.json.encode(item).decode() + "\n" for item in items)


def _portable(schema: Any) -> Any:
    r"""A schema with patterns as JSON Schema has them: in ECMA 262 there is no `\Z`, and `$` means the same."""
    match schema:
        case {"pattern": str(pattern), **rest}:
            return {"pattern": pattern.replace(r"\Z", "$"), **_portable(rest)}
        case dict():
            return {key: _portable(value) for key, value in schema.items()}
        case list():
            return [_portable(item) for item in schema]
    return schema
