"""GET /health and GET /ready: whether the gateway lives, and whether it can work."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
from starlette.applications import Starlette

from common.broker.memory import MemoryBroker
from common.errors import Unavailable
from common.ledger.memory import MemoryLedger
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

        async def ready(self) -> None:
            if self.away:
                raise Unavailable("Redis is away")
            await super().ready()

    broker, ledger = AwayBroker(), AwayLedger()
    async with served(Health(broker, ledger, within_s=60.0)) as http:
        for away, detail in (
            ((False, False), None),
            ((True, False), "RabbitMQ cannot serve"),
            ((False, True), "Redis cannot serve"),
            ((True, True), "RabbitMQ and Redis cannot serve"),
            ((False, False), None),
        ):
            broker.away, ledger.away = away
            async with http.get("/ready") as answer:
                problem = await answer.json(content_type=None)
            assert (answer.status, problem.get("detail")) == (503 if detail else 200, detail)
            async with http.get("/health") as answer:
                assert (answer.status, await answer.json()) == (200, {"healthy": True})


async def test_health_fails_when_only_a_restart_helps() -> None:
    """Redis refuses the login for long: whoever restarts the gateway gives it the new one."""
    locked_out: list[str] = []
    health = Health(MemoryBroker(), MemoryLedger(), is_locked_out=lambda: bool(locked_out))
    async with served(health) as http:
        for locked_out[:], status in (([], 200), (["redis"], 503), ([], 200)):
            async with http.get("/health") as answer:
                assert answer.status == status


async def test_a_gateway_that_rabbitmq_refuses_is_not_live() -> None:
    """A restart with other settings is what may help. The words of RabbitMQ, which name a user, are not public."""
    broker = MemoryBroker()
    async with served(Health(broker, MemoryLedger())) as http:
        for refusal, status in (("", 200), ("access refused for user 'app'", 503), ("", 200)):
            broker.refusal = refusal
            async with http.get("/health") as answer:
                assert answer.status == status
                assert "app" not in await answer.text()


async def test_a_ledger_that_says_nothing_is_away() -> None:
    """Calls of a ledger wait until it answers, however long; /ready does not, nor do those who ask beside."""

    class SilentLedger(MemoryLedger):
        async def ready(self) -> None:
            await asyncio.Event().wait()
            await super().ready()

    async with served(Health(MemoryBroker(), SilentLedger(), within_s=0.01)) as http:
        for answer in await asyncio.gather(*(http.get("/ready") for _ in range(20))):
            assert answer.status == 503
            assert (await answer.json(content_type=None))["detail"] == "Redis cannot serve"
