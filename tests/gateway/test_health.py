"""GET /health and GET /ready: whether the gateway lives, and whether it can work."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
from starlette.applications import Starlette

from common.broker.memory import MemoryBroker
from common.errors import Unavailable
from common.ledger.memory import MemoryLedger
from common.ledger.values import Snapshot
from common.web.keys.authenticator import Authenticator
from common.web.keys.memory import MemoryApiKeys
from common.web.routing import routes_of
from common.web.server import serving
from gateway.api.health import Health
from tests.gateway.running import KEY


@contextlib.asynccontextmanager
async def served(health: Health) -> AsyncIterator[aiohttp.ClientSession]:
    """Where keys are required of others."""
    routes = routes_of(health.operations(), Authenticator(MemoryApiKeys(), True, KEY), lambda *_: None)
    async with (
        serving(Starlette(routes=routes), "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
    ):
        yield http


async def test_ready_says_what_is_away() -> None:
    """503 names it, to everybody, while /health says that the gateway lives."""

    class AwayBroker(MemoryBroker):
        away = False

        async def ready(self) -> None:
            if self.away:
                raise Unavailable("RabbitMQ is away")

    class AwayLedger(MemoryLedger):
        away = False

        async def snapshot(self, run: str | None = None) -> Snapshot:
            if self.away:
                raise Unavailable("Redis is away")
            return await super().snapshot(run)

    broker, ledger = AwayBroker(), AwayLedger()
    async with served(Health(broker, ledger, within_s=60.0)) as http:
        for away, detail in (
            ((False, False), None),
            ((True, False), "RabbitMQ did not answer"),
            ((False, True), "Redis did not answer"),
            ((True, True), "RabbitMQ and Redis did not answer"),
            ((False, False), None),
        ):
            broker.away, ledger.away = away
            async with http.get("/ready") as answer:
                problem = await answer.json(content_type=None)
            assert (answer.status, problem.get("detail")) == (503 if detail else 200, detail)
            async with http.get("/health") as answer:
                assert (answer.status, await answer.json()) == (200, {"healthy": True})


async def test_a_ledger_that_says_nothing_is_away() -> None:
    """Calls of a ledger wait until it answers, however long; /ready does not, nor do those who ask beside."""

    class SilentLedger(MemoryLedger):
        async def snapshot(self, run: str | None = None) -> Snapshot:
            await asyncio.Event().wait()
            return await super().snapshot(run)

    async with served(Health(MemoryBroker(), SilentLedger(), within_s=0.01)) as http:
        for answer in await asyncio.gather(*(http.get("/ready") for _ in range(20))):
            assert answer.status == 503
            assert (await answer.json(content_type=None))["detail"] == "Redis did not answer"
