"""The gateway: all its parts, put together on a broker, a ledger and what it keeps itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from common.background import Worker, end, supervise
from common.broker.port import Broker
from common.settings import Settings
from common.version import project_version
from common.web.answers import json_answer
from common.web.guard import Guard
from common.web.keys.authenticator import Authenticator
from common.web.openapi import document
from common.web.operations import Answer, Operation
from common.web.rate import RateLimiter
from common.web.routing import not_served, routes_of
from common.web.server import serving
from gateway.acceptance.acceptance import Acceptance
from gateway.acceptance.limits import AcceptanceLimits, RelayLimits
from gateway.acceptance.receipts import Announcer
from gateway.acceptance.relays import Relays
from gateway.api.batches import Batches
from gateway.api.events import Events
from gateway.api.health import Health
from gateway.api.inbox import InboxRoutes
from gateway.api.messages import Messages
from gateway.api.metrics import GatewayMetrics
from gateway.api.runs import Runs
from gateway.api.simulated import SimulatedRuns
from gateway.callbacks.dispatcher import Dispatcher
from gateway.dashboard import Dashboard
from gateway.live.broadcaster import Broadcaster
from gateway.live.inbox import Inbox
from gateway.stores import GatewayStores, gateway_name

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


class _Part(Protocol):
    def operations(self) -> list[Operation]: ...


class Gateway:
    """Works, and can be reached, while it is `serving`.

    `stand_in`: as `smsim serve` has it: every message is tracked, and those sent can be looked at in an inbox.
    Raises UsageError for settings that don't go together.
    """

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        stores: GatewayStores,
        stand_in: bool = False,
        acceptance_limits: AcceptanceLimits | None = None,
        relay_limits: RelayLimits | None = None,
    ) -> None:
        ledger, tracker = stores.ledger, stores.tracker
        secret = settings.callback_secret
        fixed_key = settings.gateway_api_key
        self.metrics = GatewayMetrics(broker)
        self.authenticator = Authenticator(
            stores.api_keys, settings.gateway_auth, fixed_key.get_secret_value() if fixed_key else None
        )
        origins = _listed(settings.gateway_cors_origins)
        limits = RateLimiter(settings.gateway_rate, settings.gateway_key_rate)
        dispatcher = Dispatcher(
            stores.callbacks,
            tracker,
            ledger,
            secret.get_secret_value() if secret else None,
            settings.callback_allow_private,
        )
        queue = settings.queue_name
        relays = Relays(broker, stores.acceptances, ledger, relay_limits)
        announcer = Announcer(tracker.tell, dispatcher.expect)
        self.acceptance = Acceptance(stores.acceptances, relays, announcer, acceptance_limits)
        self._simulated = SimulatedRuns(broker, ledger, gateway_name(), queue)
        self._broadcaster = Broadcaster(ledger, broker, tracker)
        events = Events(self._broadcaster, self.authenticator)
        self.inbox = Inbox(tracker) if stand_in else None
        self._background: list[Worker] = [self._broadcaster, dispatcher]
        parts: list[_Part] = [
            Messages(
                acceptance=self.acceptance,
                ledger=ledger,
                tracker=tracker,
                limits=limits,
                flaw_of=dispatcher.flaw_of,
                count=self.metrics.accepted,
            ),
            Batches(
                acceptance=self.acceptance,
                limits=limits,
                flaw_of=dispatcher.flaw_of,
                count=self.metrics.accepted,
                track_all=stand_in,
            ),
            Runs(self._broadcaster.poller),
            self._simulated,
            events,
            Health(broker, ledger),
            self.metrics,
        ]
        if self.inbox is not None:
            parts.append(InboxRoutes(self.inbox))
            self._background.append(self.inbox)
        operations = [operation for part in parts for operation in part.operations()]
        operations += self._own_operations()
        self._document = msgspec.json.encode(document(operations, project_version()))
        self._tasks: list[asyncio.Task[None]] = []
        self.metrics.watch_pending(lambda: self.acceptance.pending)
        self.metrics.watch_events(lambda: self._broadcaster.subscribers, self._broadcaster.dropped)
        starlette = Starlette(
            routes=[
                *routes_of(operations, self.authenticator, self.metrics.observe),
                *events.websockets(),
                *Dashboard().routes(),
            ],
            exception_handlers={HTTPException: not_served},
        )
        # A redirect would go to whatever host the client named.
        starlette.router.redirect_slashes = False
        hosts = _listed(settings.gateway_hosts) or (None if settings.gateway_auth else LOOPBACK)
        self._app: ASGIApp = Guard(starlette, hosts, origins)

    @contextlib.asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[int]:
        """Serves there until left, then answers what it has in hand; gives the port. Raises Unavailable."""
        async with self._working(), serving(self._app, host, port) as bound:
            try:
                yield bound
            finally:
                await self._end_streams()

    async def _end_streams(self) -> None:
        """Ends the answers that would hold up the server's end."""
        if self.inbox is not None:
            self.inbox.close()
        await self._broadcaster.close()

    @contextlib.asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        await self.acceptance.open()
        self._tasks = [asyncio.create_task(supervise(part)) for part in self._background]
        try:
            yield
        finally:
            await end(self._tasks)
            # At the same time: what they may take together is limited.
            await asyncio.gather(self._simulated.close(), self.acceptance.close())

    def _own_operations(self) -> list[Operation]:
        return [
            Operation(
                *("GET", "/openapi.json", self._openapi, None, "operation", "This document"),
                {200: Answer("OpenAPI 3.1", dict, {"openapi": "3.1.0"})},
            ),
        ]

    async def _openapi(self, _: Request) -> Response:
        return json_answer(self._document)


def _listed(text: str | None) -> frozenset[str]:
    """The parts of a setting that is separated by commas."""
    return frozenset(part.strip() for part in (text or "").split(",") if part.strip())
