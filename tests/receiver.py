"""A receiver of callbacks, which checks their signatures."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

SECRET = "a secret of the operator's"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Request:
    """A request that a receiver got. `raw` is its body."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        """The body's JSON."""
        body: dict[str, Any] = json.loads(self.raw)
        return body

    @property
    def delivery(self) -> str:
        """The id of the delivery."""
        return self.headers["webhook-id"]

    @property
    def signed_s(self) -> int:
        """When it was signed; -1 if the signature is wrong. As docs/callbacks.md describes it."""
        return self.signed_with(SECRET.encode())

    def signed_with(self, secret: bytes) -> int:
        """The same, with another secret."""
        at = self.headers["webhook-timestamp"]
        signed = f"{self.delivery}.{at}.".encode() + self.raw
        expected = "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
        return int(at) if expected in self.headers["webhook-signature"].split(" ") else -1


@dataclass
class Receiver:
    """Listens on this machine and notes requests. `handler` responds, if there is one, else `status` and `headers`."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    handler: Handler | None = None
    requests: list[Request] = field(default_factory=list)
    in_progress: int = 0
    max_in_progress: int = 0
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Responds to a request; with 400 to a wrong signature."""
        got = Request(request.path_qs, dict(request.headers), await request.read())
        if got.signed_s < 0:
            return web.Response(status=400)
        self.requests.append(got)
        self.in_progress += 1
        self.max_in_progress = max(self.max_in_progress, self.in_progress)
        try:
            if self.handler is not None:
                return await self.handler(request)
            return web.Response(status=self.status, headers=self.headers)
        finally:
            self.in_progress -= 1

    @property
    def statuses(self) -> dict[str, str]:
        """The status of each message, by its id."""
        return {request.body["uuid"]: request.body["status"] for request in self.requests}

    @property
    def uuids(self) -> list[str]:
        """The message ids, sorted; one for each request."""
        return sorted(request.body["uuid"] for request in self.requests)

    @property
    def port(self) -> str:
        """The port of its URL."""
        return self.url.split(":")[2].partition("/")[0]

    @asynccontextmanager
    async def listening(self, host: str = "127.0.0.1") -> AsyncIterator["Receiver"]:
        """Listens within the context."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await (site := web.TCPSite(runner, host, 0)).start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.url = f"http://{host}:{port}/hook?key=k1"
        try:
            yield self
        finally:
            await runner.cleanup()


async def hang(_: web.Request) -> web.StreamResponse:
    """A handler that never responds."""
    await asyncio.Event().wait()
    return web.Response()
