"""Keeps web pages of others away from the gateway, and tells browsers to be strict with what it serves.

A gateway on loopback can be reached by every page that its user has open. Three things keep them out, whether keys are
asked for or not: a Host that is not ours is refused (DNS rebinding); so is a foreign Origin where something would
change or a WebSocket would open, since neither waits for CORS; and what else they ask for, the browser keeps from them.
"""

import re
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.web.problems import Problem

# For the dashboard, which has its scripts and styles in files of its own. uPlot sets styles through the CSSOM, which
# needs no 'unsafe-inline'. 'self' covers the WebSockets of the same host too (CSP level 3).
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", _POLICY.encode()),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
]
_NO_STORE = (b"cache-control", b"no-store")
_VARY = (b"vary", b"Origin")
_EXPOSED = (b"access-control-expose-headers", b"Location, Retry-After, Idempotent-Replayed")
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, X-API-Key, Idempotency-Key, Content-Type",
    "Access-Control-Max-Age": "600",
}
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::\d*)?")
MOST_HOSTS = 100
_STARTS = frozenset({"http.response.start", "websocket.http.response.start"})


class Guard:
    """Around an ASGI application. `hosts`: names that it answers to, None for any. `cors_origins`: whose pages may use
    it besides its own, like `https://alerts.example.org`; they send an API key, so no cookies are asked for.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None, cors_origins: frozenset[str]) -> None:
        self._app = app
        self._hosts = None if hosts is None else {_name_of(host) for host in hosts}
        self._served_hosts: set[bytes] = set()  # as they were sent
        self._origins = {origin.lower().rstrip("/") for origin in cors_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what is refused, and passes on all else."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        host = _value(scope, b"host")
        origin = _value(scope, b"origin")
        listed = origin in self._origins
        guarded = self._guarded(send, origin if listed else "")
        if self._hosts is not None and _name_of(host) not in self._hosts:
            problem = Problem(421, "this host name is not served here: GATEWAY_HOSTS says which are")
            await _refuse(problem, scope, receive, guarded)
        elif origin and not listed and not _of_host(origin, host) and _matters(scope):
            problem = Problem(
                403, "pages of this origin may not do that: GATEWAY_CORS_ORIGINS says which may"
            )
            await _refuse(problem, scope, receive, guarded)
        elif listed and _is_preflight(scope):
            await Response(status_code=204, headers=_PREFLIGHT)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)

    def serves(self, fields: Mapping[bytes, bytes]) -> bool:
        """Whether requests to the host in these header fields are served."""
        host = fields.get(b"host", b"")
        if host not in self._served_hosts:
            if self._hosts is not None and _name_of(host.decode("latin-1")) not in self._hosts:
                return False
            if len(self._served_hosts) < MOST_HOSTS:
                self._served_hosts.add(host)
        return True

    def added_fields(self) -> bytes:
        """The header fields that are added to an answer to a request of no origin."""
        vary = [_VARY] if self._origins else []
        return b"".join([b"%b: %b\r\n" % field for field in (*_SECURITY, *vary, _NO_STORE)])

    def _guarded(self, send: Send, allowed: str) -> Send:
        """`send`, with headers added to each answer; `allowed` is an origin whose pages may read it."""
        added = _SECURITY
        if self._origins:
            added = [*added, _VARY]
        if allowed:
            added = [*added, (b"access-control-allow-origin", allowed.encode("latin-1")), _EXPOSED]

        async def guarded(message: Message) -> None:
            if message["type"] in _STARTS:
                headers = [*message.get("headers", ()), *added]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append(_NO_STORE)
                message = {**message, "headers": headers}
            await send(message)

        return guarded


def _value(scope: Scope, header: bytes) -> str:
    """A header in lower case; several in one, which is then nobody's host or origin."""
    values = [value for name, value in scope["headers"] if name == header]
    return b", ".join(values).decode("latin-1").lower()


def _name_of(host: str) -> str:
    """A host without its port: of `[::1]:8000`, `::1`."""
    parts = _HOST.fullmatch(host.lower())
    return (parts[1] if parts else host.lower()).strip("[]").rstrip(".")


def _of_host(origin: str, host: str) -> bool:
    """Whether a page of this origin comes from that host. A proxy may have ended TLS, so the scheme says nothing."""
    return origin.partition("://")[2] == host


def _matters(scope: Scope) -> bool:
    """Whether the request does something, or asks to; all else just reads, and CORS sees to it that a page can't."""
    return scope["type"] == "websocket" or scope["method"] not in _READS or _is_preflight(scope)


def _is_preflight(scope: Scope) -> bool:
    """Whether a browser asks if a page of another origin may send something."""
    return scope.get("method") == "OPTIONS" and _value(scope, b"access-control-request-method") != ""


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})  # a handshake that is closed is answered 403
    else:
        await problem.response()(scope, receive, send)
