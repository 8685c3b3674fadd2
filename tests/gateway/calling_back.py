"""For tests of callbacks: a receiver, a store that notes what is owed, and the neighbours that go wrong."""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from aiohttp import web

from common.messages import Outcome
from common.tracking.port import Record
from gateway.callbacks.memory import MemoryCallbacks
from sender.providers.bulk import Sends
from tests.gateway.running import NUMBER

SECRET = "a secret of the operator's"
ON: dict[str, Any] = {"callback_secret": SECRET, "callback_allow_private": True}
ELSEWHERE = "https://example.org/told"  # for callbacks that are never delivered


class Receiver:
    """A place that is told. What is signed wrongly it refuses."""

    def __init__(self) -> None:
        self.url = ""
        self.told: list[dict[str, Any]] = []
        self.deliveries: list[str] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Receiver"]:
        app = web.Application()
        app.router.add_post("/told", self._hear)
        runner = web.AppRunner(app)
        await runner.setup()
        await (site := web.TCPSite(runner, "127.0.0.1", 0)).start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{port}/told"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _hear(self, request: web.Request) -> web.Response:
        body = await request.read()
        at, _, signature = request.headers["X-Smsim-Signature"].removeprefix("t=").partition(",v1=")
        expected = hmac.new(SECRET.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
        if signature != expected:
            return web.Response(status=400)
        self.told.append(json.loads(body))
        self.deliveries.append(request.headers["X-Smsim-Delivery"])
        return web.Response(status=204)

    def statuses(self) -> dict[str, str]:
        """What became of each message, by its id."""
        return {said["uuid"]: said["status"] for said in self.told}


class Odd:
    """A provider that fails the odd seqs."""

    reads_messages = False

    def start(self, sends: Sends) -> None:
        sends.outcomes[:] = np.where(sends.seqs % 2, Outcome.FAILED, Outcome.SENT)
        sends.finish(0, sends.seqs.size)

    async def close(self) -> None:
        return


class Held(Odd):
    """One whose sends don't end before `end_all`."""

    def __init__(self) -> None:
        self.begun: list[Sends] = []

    def start(self, sends: Sends) -> None:
        self.begun.append(sends)

    def end_all(self) -> None:
        for sends in self.begun:
            super().start(sends)


class Noting(MemoryCallbacks):
    """Notes what was ever owed, and dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.owed: list[str] = []
        self.dropped: list[str] = []

    def owe_now(self, records: Sequence[Record]) -> None:
        self.owed += [record.uuid for record in records]
        super().owe_now(records)

    async def drop(self, uuids: Sequence[str]) -> None:
        self.dropped += uuids
        await super().drop(uuids)


def batch(messages: int, url: str = ELSEWHERE, without: Sequence[int] = ()) -> list[dict[str, str]]:
    """Messages that have a callback, some aside."""
    items = [{"number": NUMBER, "text": str(k), "callback_url": url} for k in range(messages)]
    for k in without:
        del items[k]["callback_url"]
    return items
