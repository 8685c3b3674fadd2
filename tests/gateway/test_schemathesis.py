"""The gateway does what its OpenAPI document says, for data of every kind: schemathesis asks it.

Right data must be taken and wrong data refused, and whatever is answered must be in the document: its status, its media
type, its headers, its schema. No answer may be 5xx. Then no key, another method, and what was deleted.
"""

import asyncio
import collections
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER

from common.web.bodies import NDJSON
from tests.examples import examples
from tests.gateway.running import KEY, NUMBER, running

EXAMPLES = examples(15, 60)
CONFIG = {
    "seed": 1,
    "headers": {"Authorization": f"Bearer {KEY}"},
    "generation": {"deterministic": True, "max-examples": EXAMPLES, "database": "none"},
    "request-timeout": 10.0,
    "max-stream-events": 1,
    # A message that is canceled by DELETE can still be read.
    "operations": [{"include-path": "/sms/{uuid}", "checks": {"use_after_free": {"enabled": False}}}],
}
_keys = (f"key-{n}" for n in itertools.count())


@schemathesis.serializer(NDJSON)
def lines(_: schemathesis.SerializationContext, value: Any) -> bytes:
    """One JSON value a line; to the document, all of them are a string."""
    return value.encode(errors="replace") if isinstance(value, str) else json.dumps(value).encode() + b"\n"


def make_sense(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    """Gives right data what no schema can ask for: real numbers, keys that are new, runs that are short."""
    right = case.meta is not None and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE
    query = case.query or {}
    if case.path == "/inbox/wait" and (right or "timeout" not in query):
        case.query = query = {**query, "timeout": 0}
    if not right:
        return
    if "to" in query:
        query["to"] = NUMBER
    if "uuid" in query:
        query.pop("run", None)  # of another run it is refused
    if case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = next(_keys)
    if case.media_type == NDJSON:  # that is a string, of which no schema says more
        case.body = "".join(json.dumps({"number": NUMBER, "text": f"{k}"}) + "\n" for k in range(3))
    for item in case.body if isinstance(case.body, list) else [case.body]:
        if isinstance(item, dict) and "number" in item:
            item["number"] = NUMBER
            item.pop("callback_url", None)  # singly and in batches: refused, since nothing is to be called
        if isinstance(item, dict) and "num_messages" in item:
            item["num_messages"] = 1 + int(str(item["num_messages"]).partition(".")[0]) % 50
            item["batch_size"] = 10


@pytest.fixture
def sensible() -> Iterator[None]:
    """`make_sense` is in force."""
    GLOBAL_HOOK_DISPATCHER.register_hook_with_name(make_sense, "before_call")
    yield
    GLOBAL_HOOK_DISPATCHER.unregister(make_sense)


class Findings:
    """What schemathesis finds wrong, and which statuses each operation answers."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.answers: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)

    def look(self, url: str) -> None:
        """Goes through all of its phases; takes its time, so in a thread of its own."""
        config = SchemathesisConfig.from_dict(CONFIG)
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
        for event in from_schema(schema).execute():
            match event:
                case events.NonFatalError():
                    self.wrong.append(f"{event.label}: {event.info.format()}")
                case events.FatalError():
                    self.wrong.append(repr(event.exception))
                case events.ScenarioFinished():
                    self._take(event.recorder)

    def _take(self, recorder: ScenarioRecorder) -> None:
        for case, asked in recorder.interactions.items():
            if asked.response is not None:
                self.answers[recorder.cases[case].value.operation.label][asked.response.status_code] += 1
        for check in itertools.chain.from_iterable(recorder.checks.values()):
            if check.failure_info is not None:
                failure = check.failure_info.failure
                self.wrong.append(f"{failure.operation}: {failure}\n  {check.failure_info.code_sample}")


async def test_the_gateway_does_what_its_document_says(sensible: None) -> None:
    """Of the stand-in, which has all operations, with keys asked for, and a sender beside it."""
    findings = Findings()
    async with running(stand_in=True, gateway_auth=True, gateway_api_key=KEY) as gateway:
        await asyncio.to_thread(findings.look, gateway.url)
        _, document = await gateway.get("/openapi.json")
    assert not findings.wrong, "\n".join(sorted(set(findings.wrong)))
    operations = {
        f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods
    }
    for operation in operations - {"GET /openapi.json"}:  # what schemathesis reads, it does not test
        seen = findings.answers[operation]
        assert [status for status in seen if 200 <= status < 300], (operation, seen)
        assert [status for status in seen if 400 <= status < 500], (operation, seen)
