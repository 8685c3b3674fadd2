"""The OpenAPI document: valid, complete, and what the table of operations says."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from enum import StrEnum
from typing import Annotated, Any

import jsonschema_rs
import msgspec
import pytest
from msgspec import Meta
from schemathesis.specs.openapi.definitions import OPENAPI_31
from starlette.requests import Request
from starlette.responses import Response

from common.web.bodies import NDJSON
from common.web.openapi import document, operation_id
from common.web.operations import JSON, Answer, Body, Operation, Parameter, Scope
from tests.gateway.running import running

Json = dict[str, Any]


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Leaf(msgspec.Struct):
    colour: Colour
    name: Annotated[str, Meta(pattern=r"^[a-z]{1,4}\Z")]


class Tree(msgspec.Struct, forbid_unknown_fields=True):
    """A tree."""

    leaves: list[Leaf]
    age: int | None = None


LEAF = {"colour": "red", "name": "oak"}


async def handler(_: Request) -> Response:
    raise AssertionError


def operation(method: str = "GET", path: str = "/trees", **more: Any) -> Operation:
    given = {"scope": Scope.READ, "answers": {200: Answer("a tree", Tree, Tree([]))}, **more}
    return Operation(method=method, path=path, handler=handler, tag="trees", summary="A tree", **given)


POST = operation(
    "POST",
    "/trees/{name}",
    scope=Scope.SEND,
    answers={
        202: Answer("planted", Tree, Tree([Leaf(Colour.RED, "oak")])),
        409: Answer("a tree of this name stands here"),
        422: Answer("no tree"),
    },
    parameters=(
        Parameter(name="name", where="path", description="what it is called", example="oak"),
        Parameter(name="colour", where="query", description="only these", kind=Colour, example=Colour.BLUE),
        Parameter(name="Idempotency-Key", where="header", description="once"),
    ),
    body=Body({JSON: list[Leaf], NDJSON: Leaf}, {"one": [LEAF], "two": [LEAF, LEAF]}, "leaves"),
)


def described(*operations: Operation) -> Json:
    """The document, as it is after the way through JSON."""
    said: Json = json.loads(msgspec.json.encode(document(operations, "1.2.3")))
    return said


@pytest.fixture
async def ours() -> AsyncIterator[Json]:
    """The document that the gateway serves, with all of its parts."""
    async with running(stand_in=True, sends=False) as gateway:
        _, said = await gateway.get("/openapi.json")
        yield said


def each_operation(said: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in said["paths"].items():
        for method, one in methods.items():
            yield f"{method} {path}", one


def each_dict(value: Any) -> Iterator[Json]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from each_dict(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from each_dict(inner)


def each_content(said: Json) -> Iterator[tuple[str, str, Json]]:
    """Every body of a request or an answer: where it stands, its media type, and what is said of it."""
    for name, one in each_operation(said):
        for where, holder in [("request", one.get("requestBody", {})), *one["responses"].items()]:
            for media_type, content in holder.get("content", {}).items():
                yield f"{name} {where}", media_type, content


def assert_sound(said: Json) -> None:
    """The document is valid OpenAPI 3.1, nothing it refers to is missing, and its examples are what its schemas say."""
    jsonschema_rs.validator_for(OPENAPI_31).validate(said)
    for one in each_dict(said):
        for ref in [one.get("$ref"), *one.get("discriminator", {}).get("mapping", {}).values()]:
            if ref is not None:
                kind, _, name = ref.removeprefix("#/components/").partition("/")
                assert name in said["components"][kind], ref
        if isinstance(pattern := one.get("pattern"), str):
            assert not re.search(r"\\[AZz]", pattern), f"no pattern of ECMA 262: {pattern}"
    for where, media_type, content in each_content(said):
        examples = [content["example"]] if "example" in content else []
        examples += [example["value"] for example in content.get("examples", {}).values()]
        assert examples, f"{where}: no example"
        if media_type in (JSON, "application/problem+json"):
            schema = {**content["schema"], "components": said["components"]}
            for example in examples:
                jsonschema_rs.validator_for(schema).validate(example)
    ids = [one["operationId"] for _, one in each_operation(said)]
    assert len(ids) == len(set(ids))


def test_a_small_table_is_sound() -> None:
    """Structs, enums, unions, lists, patterns, parameters of all kinds and several media types."""
    assert_sound(described(operation(), POST))


async def test_the_gateways_own_document_is_sound(ours: Json) -> None:
    """The same for what is served."""
    assert_sound(ours)


async def test_the_gateways_operations_say_all_that_is_to_be_known(ours: Json) -> None:
    """Summary, an example for each body and parameter, and every error that can be foreseen."""
    for name, one in each_operation(ours):
        answers = one["responses"]
        assert one["summary"], name
        assert one["tags"], name
        assert {"421", "500", "503"} <= set(answers), name
        assert answers["503"]["headers"]["Retry-After"]["schema"] == {"type": "integer"}, name
        if one["security"]:
            assert {"401", "403"} <= set(answers), name
            assert {"WWW-Authenticate"} == set(answers["401"]["headers"]), name
        if "requestBody" in one:
            assert {"400", "413", "415", "422", "429"} <= set(answers), name
        if "429" in answers:
            assert "Retry-After" in answers["429"]["headers"], name
        for parameter in one["parameters"]:
            assert parameter["description"], name
            if parameter["in"] == "path":
                assert "404" in answers, name
            else:
                assert "422" in answers, name
        for status, answer in answers.items():
            assert answer["description"], name
            if int(status) >= 400:
                assert set(answer["content"]) == {"application/problem+json"}, name


async def test_the_gateway_serves_what_the_issue_names(ours: Json) -> None:
    """No endpoint is missing from the document, and only those that hold nothing secret are open."""
    names = {name for name, _ in each_operation(ours)}
    assert {
        *(
            "post /sms",
            "get /sms/{uuid}",
            "get /key/{uuid}",
            "post /sms/batch",
            "get /runs",
            "get /runs/{run}",
        ),
        *("post /runs", "get /stats", "get /events", "get /inbox", "delete /inbox", "get /inbox/wait"),
        *("get /health", "get /ready", "get /metrics", "get /openapi.json"),
    } <= names
    assert {name for name, one in each_operation(ours) if not one["security"]} <= {
        *("get /health", "get /ready", "get /metrics", "get /openapi.json"),
    }


def test_answers_that_many_come_to_are_added_where_they_can_come() -> None:
    """An operation without body has none of a body's errors, one that is open to everybody none of a key's."""
    said = described(operation(scope=None), POST)
    assert set(said["paths"]["/trees"]["get"]["responses"]) == {"200", "400", "421", "422", "500", "503"}
    assert set(said["paths"]["/trees/{name}"]["post"]["responses"]) == {
        *("202", "400", "401", "403", "408", "409", "413", "415", "421", "422", "429", "500", "503"),
    }


def test_what_an_operation_says_itself_goes_first() -> None:
    """Its own words on a status replace the common ones, and an error of its own is a problem too."""
    answers = described(POST)["paths"]["/trees/{name}"]["post"]["responses"]
    assert answers["422"]["description"] == "no tree"
    conflict = answers["409"]["content"]["application/problem+json"]
    assert conflict["schema"] == {"$ref": "#/components/schemas/ProblemBody"}
    assert conflict["example"]["status"] == 409
    assert conflict["example"]["detail"] == "a tree of this name stands here"


def test_scopes_are_the_roles_that_a_key_needs() -> None:
    """Either way of sending the key is enough; an open operation needs none."""
    said = described(operation(scope=None), POST)
    assert said["paths"]["/trees/{name}"]["post"]["security"] == [{"bearer": ["send"]}, {"header": ["send"]}]
    assert said["paths"]["/trees"]["get"]["security"] == []
    assert said["components"]["securitySchemes"]["header"]["name"] == "X-API-Key"


def test_lines_of_json_are_shown_as_lines() -> None:
    """NDJSON has the items' schema and the same examples, one item a line."""
    lines = described(POST)["paths"]["/trees/{name}"]["post"]["requestBody"]["content"][NDJSON]
    assert lines["schema"]["type"] == "string"
    assert lines["schema"]["description"].startswith("one Leaf a line")
    two = lines["examples"]["two"]["value"]
    assert [json.loads(line) for line in two.splitlines()] == [LEAF, LEAF]


def test_an_answer_without_body_has_no_content() -> None:
    """As 204 must not."""
    said = described(operation("DELETE", answers={204: Answer("gone")}))
    assert said["paths"]["/trees"]["delete"]["responses"]["204"] == {"description": "gone"}


def test_a_stream_of_events_gives_its_items() -> None:
    """OpenAPI 3.1 has no word for them; a schema of the whole body would be wrong."""
    stream = operation(answers={200: Answer("events", Tree, "data: {}\n\n", "text/event-stream")})
    content = described(stream)["paths"]["/trees"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    assert "schema" not in content
    assert content["x-itemSchema"] == {"$ref": "#/components/schemas/Tree"}


def test_two_types_of_one_name_are_kept_apart() -> None:
    """Each is a component of its own."""
    other = msgspec.defstruct("Tree", [("height", int)], module="elsewhere")
    said = described(operation(), operation("PUT", answers={200: Answer("another", other, {"height": 1})}))
    assert_sound(said)
    refs = {
        method: said["paths"]["/trees"][method]["responses"]["200"]["content"][JSON]["schema"]["$ref"]
        for method in ("get", "put")
    }
    assert refs["get"] != refs["put"]


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/sms", "postSms"),
        ("GET", "/sms/{uuid}", "getSmsByUuid"),
        ("GET", "/inbox/wait", "getInboxWait"),
        ("GET", "/openapi.json", "getOpenapiJson"),
    ],
)
def test_operations_are_called_by_method_and_path(method: str, path: str, name: str) -> None:
    """Names that a generated client can use."""
    assert operation_id(operation(method, path)) == name
