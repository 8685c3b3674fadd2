"""What a client is told of its mistakes: all of them, each with its place, in words, and no number or text repeated."""

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from common.sms.numbers import INTERNATIONAL, normalise
from common.web.bodies import decoded_or_errors
from common.web.validation import MOST_ERRORS
from gateway.api import array_items, batch_body
from gateway.api.array_items import items_of
from tests.gateway.running import NUMBER, running

GOOD = {"number": NUMBER, "text": "hello"}
JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
LENGTH = "must be a string of 1 to 1,600 characters"


def told(problem: Any) -> list[tuple[str, str]]:
    return [(what["where"], what["what"]) for what in problem["errors"]]


@pytest.mark.parametrize(
    ("path", "body", "errors"),
    [
        ("/sms", [], [("body", "must be an object")]),
        ("/sms", {}, [("body.number", "is missing"), ("body.text", "is missing")]),
        (
            "/sms",
            {"number": "+1234", "text": "", "priority": "high", "callback_url": 5, "txt": "a"},
            [
                ("body.number", "too short for its country"),
                ("body.text", LENGTH),
                ("body.priority", "must be normal or urgent"),
                ("body.callback_url", "must be a string of up to 2,000 characters"),
                ("body.txt", "is not known here, only number, text, priority, callback_url"),
            ],
        ),
        (
            "/sms",
            {**GOOD, NUMBER: "hello"},
            [("body", "a name that is not known here, only number, text, priority, callback_url")],
        ),
        (
            "/runs",
            {"num_messages": 0, "batch_size": "1", "run": "NO"},
            [
                ("body.num_messages", "must be a whole number from 1 to 10,000,000"),
                ("body.batch_size", "must be a whole number from 1 to 10,000"),
                ("body.run", "must be 1 to 40 small letters, digits and hyphens"),
            ],
        ),
        (
            "/sms/batch",
            [
                GOOD,
                {"number": "+1234", "text": 7},
                {**GOOD, "number": "12"},
                None,
                {**GOOD, "priority": "urgent"},
            ],
            [
                ("body[1].number", "too short for its country"),
                ("body[1].text", LENGTH),
                ("body[2].number", "not in international form: begin with + and the country code"),
                ("body[3]", "must be an object"),
                ("body[4].priority", "is not known here, only number, text, callback_url"),
            ],
        ),
        ("/sms/batch", {}, [("body", "must be an array of messages")]),
        ("/sms/batch", [], [("body", "has no messages")]),
    ],
)
async def test_all_that_is_wrong_is_told(path: str, body: Any, errors: list[tuple[str, str]]) -> None:
    """Each what with its place; nothing is accepted, and what was sent is not repeated."""
    async with running(sends=False) as gateway:
        status, problem = await gateway.post(path, body)
        assert (status, told(problem)) == (422, errors)
        assert problem["detail"].startswith(": ".join(errors[0]))
        assert NUMBER not in json.dumps(problem)
        assert (await gateway.ledger.snapshot()).published == 0
        if path == "/sms/batch" and body and isinstance(body, list):
            lines = "".join(json.dumps(item) + "\n" for item in body)
            status, problem = await gateway.post(path, data=lines.encode(), headers=NDJSON)
            assert (status, told(problem)) == (422, errors)


async def test_so_many_errors_and_no_more() -> None:
    """Of a batch that is all wrong, the first hundred."""
    async with running(sends=False) as gateway:
        for text, times in (("", 2 * MOST_ERRORS), ("", 20_000)):
            status, problem = await gateway.post("/sms/batch", [{**GOOD, "text": text}] * times)
            assert (status, len(problem["errors"])) == (422, MOST_ERRORS)
            assert problem["errors"][-1]["where"] == f"body[{MOST_ERRORS - 1}].text"


async def test_after_so_many_errors_no_more_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of an array nor of lines; a line may have many errors, too."""
    looked_at: list[str] = []

    def noting(said: bytes, decoder: Any, where: str, checks: Any, **more: Any) -> Any:
        looked_at.append(where)
        return decoded_or_errors(said, decoder, where, checks, **more)

    monkeypatch.setattr(batch_body, "decoded_or_errors", noting)
    many_names = json.dumps(dict.fromkeys((f"a{'b' * k}" for k in range(20)), 1))
    async with running(sends=False) as gateway:
        for line, errors in (('{"text": "a"}', 1), ("{}", 2), (many_names, 22)):
            times = -(-MOST_ERRORS // errors)
            lines = [json.dumps(GOOD), *[line] * 20 * MOST_ERRORS]
            for body, headers in ((f"[{','.join(lines)}]", JSON), ("\n".join(lines), NDJSON)):
                looked_at.clear()
                status, problem = await gateway.post("/sms/batch", data=body.encode(), headers=headers)
                assert (status, len(problem["errors"])) == (422, MOST_ERRORS)
                assert problem["errors"][0]["where"] == "body[1].number"
                assert len(looked_at) == 1 + times
                assert problem["detail"].endswith(f"(and {times * errors - 1} more); nothing was accepted")


async def test_others_have_their_turn_between_lines() -> None:
    """Even where all of them come at once, and are blank."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def receive() -> dict[str, Any]:
        body = b"\n" * 10 * batch_body.SLICE + json.dumps(GOOD).encode()
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", NDJSON["Content-Type"].encode())]
    request = Request({"type": "http", "headers": headers}, receive)
    rules = batch_body.Rules(url_error=lambda _: None, numbers=INTERNATIONAL)
    going_on = asyncio.create_task(others())
    try:
        body = await batch_body.read_batch(request, rules, lambda _: None)
    finally:
        going_on.cancel()
    assert len(body.messages) == 1
    assert turns >= 10


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5_000])
async def test_a_number_that_is_too_large(number: str) -> None:
    """Wherever it stands: that is what is told, not that it is no object."""
    what = "a number in it is too large"
    item = f'{{"number": {number}, "text": "hello"}}'
    async with running(sends=False) as gateway:
        for path, body, headers, where in (
            ("/sms", item, JSON, "body"),
            ("/sms/batch", f"[{item}]", JSON, "body[0]"),
            ("/sms/batch", f"{json.dumps(GOOD)}\n{item}", NDJSON, "body[1]"),
        ):
            status, problem = await gateway.post(path, data=body.encode(), headers=headers)
            assert (status, told(problem)) == (422, [(where, what)])


@pytest.mark.parametrize(
    ("second", "status", "where", "what"),
    [
        (f'{{"text": "{"a" * array_items.WINDOW_BYTES}"}}', 422, "body[1]", "too large or nested too deep"),
        ("[" * 100_000 + "]" * 100_000, 422, "body[1]", "too large or nested too deep"),
        ('{"number": 1 1}', 400, "body", "is no JSON: expected ',' or '}' (byte "),
        (f'["{"a" * array_items.WINDOW_BYTES}"', 400, "body", "is no JSON: it ends too early"),
    ],
)
async def test_an_item_that_cannot_be_cut_out(second: str, status: int, where: str, what: str) -> None:
    """It is named where it is an item at all."""
    async with running(sends=False) as gateway:
        body = f"[{json.dumps(GOOD)}, {second}]"
        if "early" in what:
            body = body.removesuffix("]")
        answered, problem = await gateway.post("/sms/batch", data=body.encode(), headers=JSON)
        assert answered == status
        assert problem["errors"][0]["where"] == where
        assert problem["errors"][0]["what"].startswith(what)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b'{"number": ', "it ends too early"),
        (b'{"number"! ', "expected ':'"),
        (b'{"number": "\xff"}', "it is not UTF-8"),
        (b'{"number": 1} {', "trailing characters"),
        (json.dumps(GOOD).encode("utf-8-sig"), "it begins with a byte order mark"),
        (json.dumps(GOOD).encode("utf-16"), "it begins with a byte order mark"),
    ],
)
async def test_why_it_is_no_json(body: bytes, what: str) -> None:
    """In words of ours, or of the parser's without its prefix."""
    async with running(sends=False) as gateway:
        status, problem = await gateway.post("/sms", data=body, headers=JSON)
        assert status == 400
        assert what in problem["detail"]
        assert problem["detail"] == f"body {problem['errors'][0]['what']}"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
async def test_a_batch_with_a_byte_order_mark(encoding: str) -> None:
    """It is an array, so that is not what is wrong with it."""
    async with running(sends=False) as gateway:
        body = json.dumps([GOOD]).encode(encoding)
        status, problem = await gateway.post("/sms/batch", data=body, headers=JSON)
        what = "is no JSON: it begins with a byte order mark: send UTF-8 without one"
        assert (status, told(problem)) == (400, [("body", what)])


@pytest.mark.parametrize(
    ("method", "path", "known"),
    [
        ("GET", "/events?{}", "only run, uuid, status"),
        ("GET", "/runs?{}", "only limit"),
        ("GET", "/stats?{}", "leave it out"),
        ("GET", "/health?{}", "leave it out"),
        ("GET", "/inbox?{}", "only to, limit"),
        ("POST", "/sms?{}", "leave it out"),
        ("POST", "/sms/batch?{}", "only priority, track"),
    ],
)
async def test_unknown_query_parameters(method: str, path: str, known: str) -> None:
    """Refused everywhere, by name and with what is known; a typing error changes nothing in silence."""
    async with running(stand_in=True, sends=False) as gateway:
        path = path.format("trak=true")
        async with gateway.http.request(method, path, json=[GOOD] if method == "POST" else None) as answer:
            problem = await answer.json(content_type=None)
        assert (answer.status, [what["where"] for what in problem["errors"]]) == (422, ["query.trak"])
        assert problem["errors"][0]["what"].endswith(known)
        assert (await gateway.ledger.snapshot()).published == 0


async def test_unknown_query_parameters_of_a_websocket() -> None:
    """It is closed with the reason."""
    async with (
        running(sends=False) as gateway,
        connect(f"ws://127.0.0.1:{gateway.port}/events?foo=1") as socket,
    ):
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1008
        assert socket.close_reason == "query.foo: is not known here, only run, uuid, status"


async def test_json_ends_with_a_line_end_and_says_where_to_look() -> None:
    """Answers and problems alike, each on a line of its own; 202 has a Location that leads to what was accepted."""
    async with running(stand_in=True, gateway_cors_origins="https://a.example") as gateway:
        asked: list[tuple[str, str, Any]] = [
            ("POST", "/sms", GOOD),
            ("POST", "/sms/batch", [GOOD]),
            ("POST", "/runs", {"num_messages": 1}),
            *(
                ("GET", path, None)
                for path in ("/stats", "/runs", "/inbox", "/health", "/ready", "/openapi.json")
            ),
            ("GET", "/nowhere", None),
        ]
        for method, path, body in asked:
            async with gateway.http.request(method, path, json=body) as answer:
                said = await answer.read()
            assert said.endswith(b"}\n"), path
            assert said.count(b"\n") == 1
            if method == "POST":
                assert answer.status == 202
                place = answer.headers["Location"]
                key = "uuid" if path == "/sms" else "run"
                assert place.endswith("/" + json.loads(said)[key])
                assert (await gateway.get(place))[0] == 200


async def test_a_tracked_batch_was_accepted_before_it_was_sent() -> None:
    """Its first step is the acceptance, at the time that `accepted_at` says."""
    async with running() as gateway:
        status, answer = await gateway.post("/sms/batch?track=true", [GOOD] * 20)
        assert status == 202
        for uuid in answer["ids"]:
            seen = await gateway.ends(uuid)
            assert seen["steps"][0]["status"] == "queued"
            assert seen["steps"][0]["at"] == seen["accepted_at"] <= seen["sending_at"]


@pytest.mark.parametrize("window", [64, 256, 100_000])
def test_an_array_is_cut_into_its_items(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a window ends: between items, in the middle of a number, of a text, of a character."""
    monkeypatch.setattr(array_items, "WINDOW_BYTES", window)
    items = [
        *(k * 1.5 for k in range(40)),
        *('ä,]"\\' * k for k in range(6)),
        {"a": [{}, "]"]},
        None,
        True,
        -1e30,
    ] * 5
    for indent in (None, 1):
        body = json.dumps(items, ensure_ascii=False, indent=indent).encode()
        assert [json.loads(item) for item in items_of(body)] == items


@pytest.mark.parametrize("body", [b"", b" ", b"{}", b"[", b"[]", b"null", b"[" * 100_000])
def test_no_items(body: bytes) -> None:
    """Of what is no array, or has none, or is broken."""
    assert list(items_of(body)) == []
    assert list(items_of(b'[1, {"a": 2}, ' + body)) == [b"1", b'{"a": 2}']


@pytest.mark.parametrize(
    "text", ["   ", "\u200b", "\r\n", "a\x00b", "a\x1b[2J", "a\x7f", "a\x9bb", "a\u202eb"]
)
async def test_blank_and_control_texts_are_refused_at_their_place(text: str) -> None:
    """Alone and in a batch; the reason does not repeat the text."""
    async with running(sends=False) as gateway:
        for path, body, where in (
            ("/sms", {**GOOD, "text": text}, "body.text"),
            ("/sms/batch", [GOOD, {**GOOD, "text": text}], "body[1].text"),
        ):
            status, problem = await gateway.post(path, body)
            assert (status, [at for at, _ in told(problem)]) == (422, [where])
        assert (await gateway.ledger.snapshot()).published == 0


async def test_a_text_is_answered_as_it_is_sent() -> None:
    """With LF for line ends, and composed where that saves segments: the count is of what is sent."""
    async with running() as gateway:
        accepted = await gateway.send(text="caffe\u0300\r\n" * 12)
        assert accepted["text"] == "caffè\n" * 12
        assert accepted["segments"] == {"encoding": "GSM-7", "segments": 1, "units": 72}
        assert (await gateway.ends(accepted["uuid"]))["text"] == accepted["text"]
        status, batch = await gateway.post("/sms/batch", [{**GOOD, "text": "a\r\n" * 80}])
        assert (status, batch["segments"]) == (202, 1)


@pytest.mark.parametrize(("setting", "status"), [(None, 202), (True, 202), (False, 422)])
async def test_numbers_reserved_for_fiction(setting: bool | None, status: int) -> None:
    """Alone and in a batch: unless it is set, they are taken, since the provider is simulated."""
    async with running(reserved_numbers=setting, sends=False) as gateway:
        for number in ("+999768835601", "+447700900123", "+12025550150"):
            assert (await gateway.post("/sms", {**GOOD, "number": number}))[0] == status
            answer = await gateway.post("/sms/batch", [{**GOOD, "number": number}])
            assert answer[0] == status
            if status == 422:
                assert "reserved for fiction" in told(answer[1])[0][1]


async def test_files_and_requests_read_numbers_alike() -> None:
    """What POST /sms answers is what the normaliser of contacts files says."""
    written = [
        "(+54) 11 6658 7382",
        "0054 11 6658-7382",
        "+54 (0)11 6658 7382",
        "\u202a+541166587382\u202c",
        "'+541166587382",
    ]
    async with running(sends=False) as gateway:
        for number in written:
            assert (await gateway.send(number))["number"] == NUMBER == normalise(number)


@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00", "\\ude00\\ud83d", "\\ud83d\\u0041", "a\\\\\\ud83d"])
async def test_half_a_character_is_named_at_its_place(half: str) -> None:
    """A client that cuts a text by UTF-16 units cuts emoji in two: the JSON does not end too early."""
    item = f'{{"number": "{NUMBER}", "text": "{half}"}}'
    async with running(sends=False) as gateway:
        for path, body, headers, where in (
            ("/sms", item, JSON, "body.text"),
            ("/sms/batch", f"[{json.dumps(GOOD)}, {item}]", JSON, "body[1].text"),
            ("/sms/batch", f"{json.dumps(GOOD)}\n{item}\n", NDJSON, "body[1].text"),
        ):
            status, problem = await gateway.post(path, data=body.encode(), headers=headers)
            ((at, what),) = told(problem)
            assert (status, at) == (422, where)
            assert "half of a surrogate pair" in what


async def test_half_a_character_beside_other_errors() -> None:
    """All of them are named, in a URL and in a name as well."""
    item = '{"number": "12", "text": "a\\ud83d", "callback_url": "https://a.example/\\ud83d", "\\ud83d": 1}'
    async with running(sends=False) as gateway:
        status, problem = await gateway.post("/sms", data=item.encode(), headers=JSON)
        assert status == 422
        assert {"body.number", "body.text", "body"} <= {at for at, _ in told(problem)}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ('{"number": "+541166587382", "text": "a", "text": "b"}', "body.text"),
        ('{"number": "+541166587382", "text": "a", "text": "a"}', "body.text"),
        ('{"number": "+541166587382", "text": "a\\"", "t\\u0065xt": "b\\\\"}', "body.text"),
        ('{"number": 5, "text": "a", "number": "+541166587382"}', "body.number"),
        (
            '{"number": "+541166587382", "text": "a", "callback_url": null, "callback_url": null}',
            "body.callback_url",
        ),
    ],
)
async def test_a_name_that_is_twice_is_refused(body: str, where: str) -> None:
    """Alone, in a batch and on a line: which of the two counts would depend on who reads it."""
    async with running(sends=False) as gateway:
        for path, whole, headers, at in (
            ("/sms", body, JSON, where),
            ("/sms/batch", f"[{json.dumps(GOOD)}, {body}]", JSON, where.replace("body", "body[1]")),
            ("/sms/batch", f"{json.dumps(GOOD)}\n{body}", NDJSON, where.replace("body", "body[1]")),
        ):
            status, problem = await gateway.post(path, data=whole.encode(), headers=headers)
            assert (status, told(problem)) == (422, [(at, "is there twice: give it once")])
        twice = b'{"num_messages": 1, "num_messages": 2}'
        status, problem = await gateway.post("/runs", data=twice, headers=JSON)
        assert (status, told(problem)[0][0]) == (422, "body.num_messages")
        assert (await gateway.ledger.snapshot()).published == 0


@pytest.mark.parametrize(
    "body",
    [
        {**GOOD, "callback_url": None},
        {**GOOD, "text": 'a "quoted\\" text, with \\ and \\\\"'},
        {"text": "\\", "number": NUMBER},
    ],
)
async def test_what_only_looks_like_a_name_twice_is_taken(body: Any) -> None:
    """Null for what is not given, and quotes and backslashes in texts."""
    async with running(sends=False) as gateway:
        assert (await gateway.post("/sms", {**body, "priority": "normal"}))[0] == 202
        assert (await gateway.post("/sms", {**body, "priority": "urgent"}))[0] == 202
        assert (await gateway.post("/sms/batch", [body] * 1_200))[0] == 202
        lines = "\n".join([json.dumps(body)] * 3).encode()
        assert (await gateway.post("/sms/batch", data=lines, headers=NDJSON))[0] == 202


@pytest.mark.parametrize(
    ("method", "path", "where"),
    [
        ("GET", "/inbox?to=541166587382&to=541166587382", "query.to"),
        ("GET", "/inbox/wait?to=541166587382&timeout=1&timeout=2", "query.timeout"),
        ("DELETE", "/inbox?to=541166587382&to=12025550150", "query.to"),
        ("GET", "/runs?limit=1&limit=2", "query.limit"),
        ("GET", "/events?run=a&run=b", "query.run"),
        ("POST", "/sms/batch?track=true&track=false", "query.track"),
    ],
)
async def test_a_query_parameter_that_is_there_twice_is_refused(method: str, path: str, where: str) -> None:
    """Everywhere, whatever its values."""
    async with running(stand_in=True, sends=False) as gateway:
        async with gateway.http.request(method, path, json=[GOOD] if method == "POST" else None) as answer:
            problem = await answer.json(content_type=None)
        assert (answer.status, [at for at, _ in told(problem)]) == (400, [where])


@pytest.mark.parametrize("name", ["Idempotency-Key", "Content-Type", "X-API-Key", "Authorization"])
async def test_a_header_field_that_is_there_twice_is_refused(name: str) -> None:
    """Those that the gateway goes by."""
    fields = [("Content-Type", "application/json"), (name, "application/json"), (name, "application/json")]
    fields = fields[name == "Content-Type" :]
    async with running(sends=False) as gateway:
        status, problem = await gateway.post("/sms", data=json.dumps(GOOD).encode(), headers=fields)
        assert (status, [at for at, _ in told(problem)]) == (400, [f"header.{name}"])


async def test_batches_take_turns() -> None:
    """Only one goes on in a turn of the event loop: others wait for one slice, however many batches there are."""
    rules = batch_body.Rules(url_error=lambda _: None, numbers=INTERNATIONAL)
    turn, seen = 0, []

    async def work() -> None:
        for _ in range(5):
            await rules.wait_for_turn()
            seen.append(turn)

    working = asyncio.gather(*(work() for _ in range(4)))
    while not working.done():
        turn += 1
        await asyncio.sleep(0)
    assert len(seen) == 20
    assert max(seen.count(one) for one in seen) == 1
