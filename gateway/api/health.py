"""GET /health and GET /ready: whether the gateway lives, and whether it can do its work."""

import asyncio
from collections.abc import Awaitable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from common.broker.port import Broker
from common.errors import SmsimError
from common.ledger.port import Ledger
from common.web.answers import json_answer
from common.web.operations import Answer, Operation
from common.web.problems import Problem
from gateway.live.coalesced import CoalescedRead

# Who does not answer by then is away.
WITHIN_S = 1.0
RETRY_AFTER_S = 2.0


class Lives(msgspec.Struct, frozen=True):
    """That the gateway answers."""

    healthy: bool


class Ready(msgspec.Struct, frozen=True):
    """That RabbitMQ and Redis answer, too."""

    ready: bool


class Health:
    """Answers without an API key. Concurrent requests share a check of the servers."""

    def __init__(self, broker: Broker, ledger: Ledger) -> None:
        self._broker = broker
        self._ledger = ledger
        self._away = CoalescedRead(self._look, every_s=0.1)

    def operations(self) -> list[Operation]:
        """The endpoints."""
        return [
            Operation(
                *("GET", "/health", self._health, None, "operation", "Whether it lives"),
                {200: Answer("It does", Lives, Lives(True))},
                "Always yes: for whoever starts it again when it does not answer. RabbitMQ and Redis may be away:"
                " GET /ready looks at them.",
            ),
            Operation(
                *("GET", "/ready", self._ready, None, "operation", "Whether it can do its work"),
                {200: Answer("RabbitMQ and Redis answer", Ready, Ready(True))},
                f"Asks RabbitMQ and Redis, and gives each {WITHIN_S:g} s: for a balancer. 503 names what is away.",
            ),
        ]

    async def _health(self, _: Request) -> Response:
        return json_answer(Lives(True))

    async def _ready(self, _: Request) -> Response:
        away = await self._away.get()
        if away:
            raise Problem(503, f"{' and '.join(away)} did not answer", retry_after_s=RETRY_AFTER_S)
        return json_answer(Ready(True))

    async def _look(self) -> list[str]:
        """What does not answer."""
        asked = {"RabbitMQ": self._broker.ready(), "Redis": self._ledger.snapshot()}
        answers = await asyncio.gather(*(_answers(asking) for asking in asked.values()))
        return [name for name, well in zip(asked, answers, strict=True) if not well]


async def _answers(asking: Awaitable[object]) -> bool:
    try:
        async with asyncio.timeout(WITHIN_S):
            await asking
    except (TimeoutError, SmsimError):
        return False
    return True
