"""GET /health and GET /ready: whether the gateway lives, and whether it can work."""

import asyncio

import pytest

from common.broker.memory import MemoryBroker
from common.errors import Unavailable
from common.ledger.memory import MemoryLedger
from common.ledger.values import Snapshot
from gateway.api import health
from tests.gateway.running import KEY, running


async def test_ready_says_what_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
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

    monkeypatch.setattr(health, "WITHIN_S", 60.0)
    broker, ledger = AwayBroker(), AwayLedger()
    async with running(broker=broker, ledger=ledger, gateway_auth=True, gateway_api_key=KEY) as it:
        for away, detail in (
            ((False, False), None),
            ((True, False), "RabbitMQ did not answer"),
            ((False, True), "Redis did not answer"),
            ((True, True), "RabbitMQ and Redis did not answer"),
            ((False, False), None),
        ):
            broker.away, ledger.away = away
            status, answer = await it.get("/ready")
            assert (status, answer.get("detail")) == (503 if detail else 200, detail)
            assert await it.get("/health") == (200, {"healthy": True})


async def test_a_ledger_that_says_nothing_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of a ledger wait until it answers, however long; /ready does not, nor do those who ask beside."""

    class SilentLedger(MemoryLedger):
        async def snapshot(self, run: str | None = None) -> Snapshot:
            await asyncio.Event().wait()
            return await super().snapshot(run)

    monkeypatch.setattr(health, "WITHIN_S", 0.01)
    async with running(ledger=SilentLedger(), sends=False) as gateway:
        for status, problem in await asyncio.gather(*(gateway.get("/ready") for _ in range(20))):
            assert (status, problem["detail"]) == (503, "Redis did not answer")
