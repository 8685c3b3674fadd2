"""Heartbeats outlive a ledger that refuses for a moment, as while its password is being changed."""

import asyncio

import pytest

from common.broker.memory import MemoryBroker
from common.errors import Refused, SmsimError, Unavailable
from common.ledger.heartbeat import producer_heartbeat
from common.ledger.memory import MemoryLedger
from gateway import cli
from tests.waiting import eventually


class Moody(MemoryLedger):
    """Refuses every second time."""

    def __init__(self, error: SmsimError) -> None:
        super().__init__()
        self.error = error
        self.asked = 0
        self.confirmed = 0

    def _mood(self) -> None:
        self.asked += 1
        if self.asked % 2:
            raise self.error

    async def ready(self) -> None:
        self._mood()

    async def confirm(self, run: str, beyond: int) -> None:
        self._mood()
        self.confirmed += 1


@pytest.fixture(params=[Refused("Redis refuses"), Unavailable("Redis is away")], ids=["refused", "away"])
def moody(request: pytest.FixtureRequest) -> Moody:
    return Moody(request.param)


async def test_the_gateway_is_healthy_again_once_redis_answers(
    moody: Moody, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It beats when it is answered, and only then."""
    beats: list[float] = []
    monkeypatch.setattr(cli, "beat", beats.append)
    monkeypatch.setattr(cli, "BEAT_EVERY_S", 0.01)
    beating = asyncio.create_task(cli._beat(moody, MemoryBroker()))
    await eventually(lambda: len(beats) >= 3)
    assert not beating.done()
    assert len(beats) == moody.asked // 2
    assert "heartbeat_failed" in caplog.text
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


async def test_a_gateway_that_rabbitmq_refuses_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor restarts it then; once RabbitMQ lets it in again, it beats as before."""
    beats: list[float] = []
    monkeypatch.setattr(cli, "beat", beats.append)
    monkeypatch.setattr(cli, "BEAT_EVERY_S", 0.01)
    broker, ledger = MemoryBroker(), MemoryLedger()
    broker.refusal = "ACCESS_REFUSED"
    beating = asyncio.create_task(cli._beat(ledger, broker))
    await asyncio.sleep(0.05)
    assert not beats
    broker.refusal = ""
    await eventually(lambda: beats)
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


async def test_a_producers_heartbeat_goes_on_once_redis_answers(
    moody: Moody, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise another producer could take its run after a while."""
    async with producer_heartbeat(moody, "run", every_s=0.01):
        await eventually(lambda: moody.confirmed >= 3)
    assert "producer_heartbeat_failed" in caplog.text
