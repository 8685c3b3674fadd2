"""The guard: which requests web pages of others get through, and what every answer tells the browser."""

from typing import Any

import msgspec
import pytest
from starlette.types import Message, Receive, Scope, Send

from common.web.guard import Guard

OURS = "127.0.0.1:8000"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
FRIEND = "https://alerts.example.org"
FOREIGN = "https://evil.example"

Headers = dict[str, str]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers 200 to a request, and takes every WebSocket."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    headers = [(b"cache-control", b"max-age=60")] if scope["path"] == "/kept" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


async def call(
    headers: Headers | list[tuple[str, str]],
    method: str = "GET",
    path: str = "/sms",
    hosts: frozenset[str] | None = LOOPBACK,
    origins: frozenset[str] = frozenset(),
    takes_proxies: bool = True,
    **more: Any,
) -> list[Message]:
    """What the guarded application sends. There is a Host header of ours unless another is given."""
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    if not any(name == "host" for name, _ in pairs):
        pairs = [("host", OURS), *pairs]
    kind = {"type": "websocket"} if method == "websocket" else {"type": "http", "method": method}
    scope = {
        **kind,
        "path": path,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs if value],
        **more,
    }
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    await Guard(application, hosts, origins, takes_proxies=takes_proxies)(scope, receive, send)
    return sent


async def status(headers: Headers | list[tuple[str, str]], method: str = "GET", **more: Any) -> int:
    sent = await call(headers, method, **more)
    found: int = sent[0]["status"]
    return found


async def answered(headers: Headers, method: str = "GET", **more: Any) -> Headers:
    """The headers of the answer."""
    sent = await call(headers, method, **more)
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


async def handshake(headers: Headers, **more: Any) -> Message:
    """What a WebSocket's handshake comes to."""
    sent = await call(headers, "websocket", path="/events", **more)
    return sent[0]


@pytest.mark.parametrize("host", [OURS, "localhost", "LOCALHOST:8000", "localhost.", "[::1]:8000", "[::1]"])
async def test_hosts_of_ours_are_served(host: str) -> None:
    """With or without port, in any case, and IPv6."""
    assert await status({"host": host}) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost:8000@evil.example",
        "localhost, a",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_other_hosts_are_misdirected(host: str, method: str) -> None:
    """A name that was made to point here (DNS rebinding) is answered 421, even when it only reads."""
    assert await status({"host": host, "origin": f"http://{host}"}, method) == 421


async def test_no_host_and_several_hosts_are_misdirected() -> None:
    """What could be read in two ways is not read at all."""
    assert await status({"host": ""}) == 421
    assert await status([("host", OURS), ("host", "evil.example")]) == 421


async def test_without_a_list_every_host_is_served() -> None:
    """Behind a proxy or under a name of its own, where keys are asked for."""
    assert await status({"host": "sms.example.org"}, hosts=None) == 200


async def test_a_refusal_is_a_problem() -> None:
    """It says what to set, in the form of all other errors."""
    start, body = await call({"host": "evil.example"})
    assert (b"content-type", b"application/problem+json") in start["headers"]
    said = msgspec.json.decode(body["body"])
    assert said["status"] == 421
    assert "GATEWAY_HOSTS" in said["detail"]


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH"])
async def test_a_page_of_others_changes_nothing(method: str) -> None:
    """A form or fetch that needs no preflight reaches no handler, with keys or without."""
    assert await status({"origin": FOREIGN}, method) == 403
    assert await status({"origin": "null"}, method) == 403
    assert await status({"origin": FOREIGN, "host": "sms.example.org"}, method, hosts=None) == 403
    assert await status([("origin", f"http://{OURS}"), ("origin", FOREIGN)], method) == 403


@pytest.mark.parametrize("origin", ["", f"http://{OURS}", f"https://{OURS}"])
async def test_our_own_pages_and_programs_may_send(origin: str) -> None:
    """The dashboard, also behind a proxy that ends TLS, and programs, which send no Origin."""
    assert await status({"origin": origin}, "POST") == 200


async def test_another_port_of_this_machine_is_another_origin() -> None:
    """What else runs here may be anything."""
    assert await status({"origin": "http://127.0.0.1:9000"}, "POST") == 403


async def test_cors_is_off_by_default() -> None:
    """A page of others may ask and read nothing: no CORS header, and no preflight passes."""
    headers = await answered({"origin": FOREIGN})
    assert not [name for name in headers if name.startswith("access-control")]
    preflight = {"origin": FOREIGN, "access-control-request-method": "POST"}
    assert await status(preflight, "OPTIONS") == 403
    assert not [name for name in await answered(preflight, "OPTIONS") if name.startswith("access-control")]


async def test_listed_origins_may_do_all_but_send_cookies() -> None:
    """They pass the preflight with the headers of the API, may read the answers, and nobody else may."""
    friends = frozenset({f"{FRIEND}/"})
    preflight = {"origin": FRIEND, "access-control-request-method": "POST"}
    sent = await call(preflight, "OPTIONS", origins=friends)
    assert sent[0]["status"] == 204
    headers = await answered(preflight, "OPTIONS", origins=friends)
    assert headers["access-control-allow-origin"] == FRIEND
    allowed = {name.strip().lower() for name in headers["access-control-allow-headers"].split(",")}
    assert allowed == {"authorization", "x-api-key", "idempotency-key", "content-type"}
    assert "access-control-allow-credentials" not in headers
    answer = await answered({"origin": FRIEND}, "POST", origins=friends)
    assert answer["access-control-allow-origin"] == FRIEND
    assert await status({"origin": FOREIGN}, "POST", origins=friends) == 403
    assert "access-control-allow-origin" not in await answered({"origin": FOREIGN}, origins=friends)


async def test_answers_differ_by_origin_where_origins_are_listed() -> None:
    """A cache must not give one origin's answer to another."""
    assert (await answered({}, origins=frozenset({FRIEND})))["vary"] == "Origin"
    assert "vary" not in await answered({})


@pytest.mark.parametrize("origins", [frozenset(), frozenset({FRIEND})])
async def test_every_answer_is_strict(origins: frozenset[str]) -> None:
    """Our own answers and refusals alike."""
    for headers in (
        await answered({}, origins=origins),
        await answered({"host": "evil.example"}, origins=origins),
        await answered({"origin": FOREIGN}, "POST", origins=origins),
    ):
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert headers["permissions-policy"]
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]


async def test_an_answer_says_itself_how_long_it_may_be_kept() -> None:
    """The dashboard's files are kept by the browser; no second Cache-Control is added."""
    start, _ = await call({}, path="/kept")
    assert [value for name, value in start["headers"] if name == b"cache-control"] == [b"max-age=60"]


async def test_websockets_of_our_pages_listed_ones_and_programs_open() -> None:
    """No Origin is a program."""
    for headers in ({}, {"origin": f"http://{OURS}"}, {"origin": FRIEND}):
        assert (await handshake(headers, origins=frozenset({FRIEND})))["type"] == "websocket.accept"


@pytest.mark.parametrize("headers", [{"origin": FOREIGN}, {"origin": "null"}, {"host": "evil.example"}])
async def test_websockets_of_other_pages_are_refused(headers: Headers) -> None:
    """CORS does not hold for WebSockets, so a foreign page's handshake is refused before anything is accepted."""
    assert await handshake(headers) == {"type": "websocket.close", "code": 1008}
    told = await handshake(headers, extensions={"websocket.http.response": {}})
    assert told["type"] == "websocket.http.response.start"
    assert told["status"] == (403 if "origin" in headers else 421)


async def test_the_lifespan_passes() -> None:
    """Whatever the server asks of the application that is no connection is none of the guard's business."""
    seen = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: object) -> Any:
        raise AssertionError

    await Guard(inner, LOOPBACK, frozenset())({"type": "lifespan"}, nothing, nothing)
    assert seen == ["lifespan"]


PROXIES = ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Anything", "CF-Connecting-IP"]


@pytest.mark.parametrize("name", PROXIES)
async def test_with_authentication_off_no_proxy_lets_others_in(name: str) -> None:
    """A request that came through one is refused, a WebSocket as well, and the fast lane does not serve it."""
    field = {name.lower(): "203.0.113.7"}
    assert await status(field, takes_proxies=False) == 403
    assert (await handshake(field, takes_proxies=False))["type"] == "websocket.close"
    fields = {b"host": OURS.encode(), name.lower().encode(): b"203.0.113.7"}
    assert not Guard(application, LOOPBACK, frozenset(), takes_proxies=False).serves(fields)
    assert await status(field) == 200
    assert Guard(application, LOOPBACK, frozenset()).serves(fields)
