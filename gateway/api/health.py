"""GET /health and GET /ready: whether the gateway lives, and whether it can do its work."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from common.broker.port import Broker
from common.errors import SmsimError
from common.ledger.port import Ledger
from common.web.operations import RETRY_AFTER_S, Answer, Operation
from common.web.problems import Problem
from common.web.responses import json_response
from gateway.live.coalesced import CoalescedRead


class Lives(msgspec.Struct, frozen=True):
    """The gateway answers."""

    healthy: bool


class Ready(msgspec.Struct, frozen=True):
    """RabbitMQ and Redis can serve as well."""

    ready: bool


class Health:
    """Answers without an API key. Concurrent requests share a check of the servers.

    A server that does not answer within `within_s` is away. `is_locked_out` tells whether only a restart helps.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        within_s: float = 1.0,
        is_locked_out: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_locked_out = is_locked_out
        self._broker = broker
        self._ledger = ledger
        self._within_s = within_s
        self._away = CoalescedRead(self._find_away, every_s=0.1)

    def operations(self) -> list[Operation]:
        """The endpoints."""
        return [
            Operation(
                method="GET",
                path="/health",
                handler=self._health,
                scope=None,
                tag="operation",
                summary="Whether it lives",
                description=(
                    "For a supervisor, which restarts the gateway when it does not answer, or answers 503: RabbitMQ or"
                    " Redis has refused it for some time, so it needs to start with other settings. They may be away:"
                    " GET /ready asks them."
                ),
                answers={200: Answer("It does", kind=Lives, example=Lives(True))},
            ),
            Operation(
                method="GET",
                path="/ready",
                handler=self._ready,
                scope=None,
                tag="operation",
                summary="Whether it can do its work",
                description=(
                    f"Asks RabbitMQ for a connection and Redis for a write, and gives each {self._within_s:g} s: for"
                    " a load balancer. 503 names what cannot serve."
                ),
                answers={200: Answer("RabbitMQ and Redis can serve", kind=Ready, example=Ready(True))},
            ),
        ]

    async def _health(self, _: Request) -> Response:
        if self._is_locked_out():
            raise Problem(503, "Redis refuses the login: the gateway needs to start with another one")
        if self._broker.refusal:
            raise Problem(
                503, "RabbitMQ refuses this gateway: its log has the reason", retry_after_s=RETRY_AFTER_S
            )
        return json_response(Lives(True))

    async def _ready(self, _: Request) -> Response:
        away = await self._away.get()
        if away:
            raise Problem(503, f"{' and '.join(away)} cannot serve", retry_after_s=RETRY_AFTER_S)
        return json_response(Ready(True))

    async def _find_away(self) -> list[str]:
        """The servers that cannot serve."""
        asked = {"RabbitMQ": self._broker.ready(), "Redis": self._ledger.ready()}
        answers = await asyncio.gather(*(self._answers(asking) for asking in asked.values()))
        return [name for name, answered in zip(asked, answers, strict=True) if not answered]

    async def _answers(self, asking: Awaitable[object]) -> bool:
        try:
            async with asyncio.timeout(self._within_s):
                await asking
        except (TimeoutError, SmsimError):
            return False
        return True
