"""Protects the gateway from foreign web pages, and sets the security headers of its answers.

Every page that is open in a browser can send requests to a gateway on the same machine. With or without API keys, three
rules keep them out. A foreign Host is refused (DNS rebinding). A foreign Origin is refused where a request would change
something or open a WebSocket, since browsers send those without asking first. Other answers are not readable for the
page, since they have no CORS headers.

Where no API keys are needed, requests that came through a proxy are refused as well: a proxy on this machine would let
everybody in who reaches it.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.audit import AuditLog, Refusal
from common.web.problems import Problem

# The dashboard has its scripts and styles in files. uPlot sets styles through the CSSOM, which needs no
# 'unsafe-inline'. 'self' covers WebSockets to the same host (CSP level 3).
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
# Browsers then use TLS only, for a year after the last answer (RFC 6797).
_HSTS = (b"strict-transport-security", b"max-age=31536000")
_NO_STORE = (b"cache-control", b"no-store")
_VARY = (b"vary", b"Origin")
_EXPOSED = (b"access-control-expose-headers", b"Location, Retry-After, Idempotent-Replayed")
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, X-API-Key, Idempotency-Key, Content-Type",
    "Access-Control-Max-Age": "600",
}
# Header fields that proxies add, beside those of PROXY_PREFIX.
PROXY_FIELDS = frozenset(
    {
        *(b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip"),
        *(b"cf-connecting-ip", b"fastly-client-ip", b"x-envoy-external-address", b"x-original-forwarded-for"),
    }
)
PROXY_PREFIX = b"x-forwarded"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::\d*)?")
MOST_HOSTS = 100
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_STARTS = frozenset({"http.response.start", "websocket.http.response.start"})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_at(address: str) -> frozenset[str] | None:
    """The host names of a server that listens on this address; None: any name."""
    return LOOPBACK if is_loopback(address) else None


class Guard:
    """ASGI middleware.

    `hosts` are the names that it answers to, None for any. Pages of `cors_origins`, like `https://alerts.example.org`,
    may use the API. They send an API key, so that no credentials are allowed. `tls`: all connections are secured.

    Attributes:
        takes_proxies: Whether requests may come through a proxy.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: frozenset[str] | None,
        cors_origins: frozenset[str] = frozenset(),
        *,
        takes_proxies: bool = True,
        audit: AuditLog | None = None,
        tls: bool = False,
    ) -> None:
        self._audit = audit
        self.takes_proxies = takes_proxies
        self._app = app
        self._hosts = None if hosts is None else {name_of(host) for host in hosts}
        self._served_hosts: set[bytes] = set()  # as clients sent them
        self._security = [*_SECURITY, _HSTS] if tls else _SECURITY
        self._origins = {origin.lower().rstrip("/") for origin in cors_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers requests that are refused; passes on all others."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        origin = _value(scope, b"origin")
        allowed = origin if origin in self._origins else ""
        guarded = self._guarded(send, allowed)
        problem = self._problem(scope, origin)
        if problem is not None:
            if self._audit is not None:
                client = scope.get("client")
                self._audit.refused(Refusal("*", problem.status.value), client and client[0])
            await _refuse(problem, scope, receive, guarded)
        elif allowed and _is_preflight(scope):
            await Response(status_code=204, headers=_PREFLIGHT)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)

    def _problem(self, scope: Scope, origin: str) -> Problem | None:
        """Why a request is refused; None if it is not."""
        host = _value(scope, b"host")
        if self._hosts is not None and name_of(host) not in self._hosts:
            what = "this host name is not served here: a gateway's GATEWAY_HOSTS names those that are"
            return Problem(421, what)
        if not self.takes_proxies and _came_through_a_proxy(name for name, _ in scope["headers"]):
            what = (
                "authentication is off (GATEWAY_AUTH=false), so requests through a proxy are refused: turn it on, or"
                " ask the gateway itself"
            )
            return Problem(403, what)
        is_foreign = bool(origin) and origin not in self._origins and not _of_host(origin, host)
        if is_foreign and _has_effects(scope):
            what = "pages of this origin may not do that: GATEWAY_CORS_ORIGINS names those that may"
            return Problem(403, what)
        return None

    def serves(self, fields: Mapping[bytes, bytes]) -> bool:
        """Whether a request of no origin with these header fields is served."""
        if not self.takes_proxies and _came_through_a_proxy(fields):
            return False
        host = fields.get(b"host", b"")
        if host not in self._served_hosts:
            if self._hosts is not None and name_of(host.decode("latin-1")) not in self._hosts:
                return False
            if len(self._served_hosts) < MOST_HOSTS:
                self._served_hosts.add(host)
        return True

    def added_fields(self) -> bytes:
        """The header fields that are added to an answer to a request of no origin."""
        vary = [_VARY] if self._origins else []
        return b"".join([b"%b: %b\r\n" % field for field in (*self._security, *vary, _NO_STORE)])

    def _guarded(self, send: Send, allowed: str) -> Send:
        """`send`, with headers added to each answer. Pages of the origin `allowed` may read it."""
        added = self._security
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
    """A header in lower case. Repeated ones are joined, and then match no host and no origin."""
    values = [value for name, value in scope["headers"] if name == header]
    return b", ".join(values).decode("latin-1").lower()


def _came_through_a_proxy(fields: Iterable[bytes]) -> bool:
    return any(name in PROXY_FIELDS or name.startswith(PROXY_PREFIX) for name in fields)


def name_of(host: str) -> str:
    """A host without its port: `::1` for `[::1]:8000`."""
    parts = _HOST.fullmatch(host.lower())
    return (parts[1] if parts else host.lower()).strip("[]").rstrip(".")


def _of_host(origin: str, host: str) -> bool:
    """Whether the origin has this host. The scheme is not compared: a proxy may terminate TLS."""
    return origin.partition("://")[2] == host


def _has_effects(scope: Scope) -> bool:
    """Whether the request changes something, or asks whether it may. Reads are left to CORS."""
    return scope["type"] == "websocket" or scope["method"] not in _READS or _is_preflight(scope)


def _is_preflight(scope: Scope) -> bool:
    """Whether a browser asks if a page of another origin may send a request."""
    return scope.get("method") == "OPTIONS" and _value(scope, b"access-control-request-method") != ""


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})  # closing in the handshake answers 403
    else:
        await problem.response()(scope, receive, send)
