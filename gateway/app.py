"""The gateway: its parts, built on a broker and the stores, and served over HTTP."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from common.audit import AuditLog
from common.background import Worker, end, supervise
from common.broker.port import Broker
from common.settings import Settings
from common.sms.numbers import NumberRules
from common.web.guard import LOOPBACK, Guard
from common.web.keys.authenticator import Authenticator
from common.web.keys.port import ApiKeys
from common.web.operations import Operation
from common.web.rate import RateLimiter
from common.web.routing import not_served, routes_of
from common.web.server import serving
from gateway.acceptance.acceptance import Acceptance
from gateway.acceptance.receipts import Announcer
from gateway.acceptance.relays import Relays
from gateway.api.batches import Batches
from gateway.api.cancel import Cancels
from gateway.api.document import Document
from gateway.api.events import Events
from gateway.api.fast_lane import FastLane
from gateway.api.health import Health
from gateway.api.inbox import InboxRoutes
from gateway.api.messages import Messages
from gateway.api.metrics import GatewayMetrics
from gateway.api.runs import Runs
from gateway.api.simulated import SimulatedRuns
from gateway.callbacks.address import AddressRules
from gateway.callbacks.dispatcher import Dispatcher
from gateway.callbacks.signing import signer_of
from gateway.dashboard import Dashboard
from gateway.limits import GatewayLimits, limits_of
from gateway.live.broadcaster import Broadcaster
from gateway.live.inbox import Inbox
from gateway.stores import GatewayStores, gateway_name


class _Part(Protocol):
    def operations(self) -> list[Operation]: ...


class Gateway:
    """Works and can be reached while it is `serving`.

    A `stand_in` (`smsim serve`) tracks every message and has an inbox. It writes to `audit`, if given, and closes it.
    Raises UsageError for settings that can't be combined.

    Attributes:
        metrics: What it counts.
        acceptance: Accepts messages.
        inbox: Of a stand-in.
    """

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        stores: GatewayStores,
        *,
        stand_in: bool = False,
        limits: GatewayLimits | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self._audit = audit
        self._limits = limits or limits_of(settings)
        self._stand_in = stand_in
        self._stores = stores
        self.metrics = GatewayMetrics(broker)
        self._authenticator = _authenticator(settings, stores.api_keys)
        self._numbers = NumberRules(reserved=settings.takes_reserved_numbers)
        self._rates = RateLimiter(settings.gateway_rate, settings.gateway_key_rate)
        self._broadcaster = Broadcaster(stores.ledger, broker, stores.tracker, self._limits.live)
        self._dispatcher = self._build_dispatcher(settings, stores)
        self.acceptance = self._build_acceptance(broker, stores)
        self._events = Events(self._broadcaster, self._authenticator, audit)
        self._simulated = SimulatedRuns(
            broker,
            stores.ledger,
            gateway_name(),
            check_memory=self.acceptance.check_memory,
            queue=settings.queue_name,
            rates=self._rates,
        )
        self._messages = self._build_messages(stores)
        self.inbox = Inbox(stores.tracker) if stand_in else None
        self.metrics.watch_pending(lambda: self.acceptance.pending)
        self.metrics.watch_backlog(lambda: self.acceptance.backlog)
        self.metrics.watch_kept(lambda: self.acceptance.kept)
        self.metrics.watch_events(lambda: self._broadcaster.subscribers, self._broadcaster.dropped)
        operations = self._operations(Health(broker, stores.ledger, is_locked_out=stores.is_locked_out))
        self._app = _guarded(self._routed(operations), settings, audit)

    @contextlib.asynccontextmanager
    async def serving(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
        """Serves until left, then finishes what is under way; gives the port. Raises Unavailable."""
        lane = FastLane(self._messages, self._authenticator, self._app, self.metrics.observe, self._audit)
        async with (
            self._auditing(),
            self._working(),
            serving(self._app, host, port, self._limits.web, fast_lane=lane, tls=tls) as bound,
        ):
            try:
                yield bound
            finally:
                await self._end_streams()

    @contextlib.asynccontextmanager
    async def _auditing(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if self._audit is not None:
                self._audit.close()

    def _build_dispatcher(self, settings: Settings, stores: GatewayStores) -> Dispatcher:
        return Dispatcher(
            stores.callbacks,
            stores.tracker,
            stores.ledger,
            signer=signer_of(settings),
            owner_of=self._broadcaster.owners.of,
            rules=AddressRules(settings.callback_allow_private, settings.callback_https_only),
            limits=self._limits.callbacks,
        )

    def _build_acceptance(self, broker: Broker, stores: GatewayStores) -> Acceptance:
        relays = Relays(broker, stores.acceptances, stores.ledger, self._limits.relay)
        announcer = Announcer(stores.tracker.publish, self._dispatcher.expect)
        return Acceptance(stores.acceptances, relays, announcer, self._limits.acceptance)

    def _build_messages(self, stores: GatewayStores) -> Messages:
        return Messages(
            acceptance=self.acceptance,
            ledger=stores.ledger,
            tracker=stores.tracker,
            limits=self._rates,
            url_error=self._dispatcher.url_error,
            numbers=self._numbers,
            count=self.metrics.accepted,
            owners=self._broadcaster.owners,
        )

    def _build_batches(self) -> Batches:
        return Batches(
            acceptance=self.acceptance,
            limits=self._rates,
            url_error=self._dispatcher.url_error,
            numbers=self._numbers,
            count=self.metrics.accepted,
            track_all=self._stand_in,
        )

    def _operations(self, health: Health) -> list[Operation]:
        """Every endpoint, and the document that describes them."""
        owners = self._broadcaster.owners
        runs = Runs(self._broadcaster.poller, owners)
        parts: list[_Part] = [
            self._messages,
            self._build_batches(),
            runs,
            Cancels(self._stores.ledger, self._stores.tracker, owners),
            self._simulated,
            self._events,
            health,
            self.metrics,
        ]
        if self.inbox is not None:
            parts.append(InboxRoutes(self.inbox, self._numbers))
        operations = [operation for part in parts for operation in part.operations()]
        return [*operations, *Document(operations).operations()]

    def _routed(self, operations: Sequence[Operation]) -> Starlette:
        routes = [
            *routes_of(operations, self._authenticator, self.metrics.observe, self._audit),
            *self._events.websockets(),
            *Dashboard().routes(),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: not_served})
        app.router.redirect_slashes = False  # a redirect would go to any host that the client named
        return app

    @contextlib.asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        await self.acceptance.open()
        parts: list[Worker] = [self._broadcaster, self._dispatcher]
        if self.inbox is not None:
            parts.append(self.inbox)
        tasks = [asyncio.create_task(supervise(part)) for part in parts]
        try:
            yield
        finally:
            await end(tasks)
            # At the same time: Docker limits the time for all of it.
            await asyncio.gather(self._simulated.close(), self.acceptance.close())

    async def _end_streams(self) -> None:
        """Ends the answers that would delay the end of the server."""
        if self.inbox is not None:
            self.inbox.close()
        await self._broadcaster.close()


def _authenticator(settings: Settings, keys: ApiKeys) -> Authenticator:
    fixed = settings.gateway_api_key
    return Authenticator(keys, settings.gateway_auth, fixed.get_secret_value() if fixed else None)


def _guarded(app: Starlette, settings: Settings, audit: AuditLog | None) -> Guard:
    hosts = _listed(settings.gateway_hosts) or (None if settings.gateway_auth else LOOPBACK)
    origins = _listed(settings.gateway_cors_origins)
    tls = settings.gateway_tls_cert is not None
    return Guard(app, hosts, origins, takes_proxies=settings.gateway_auth, audit=audit, tls=tls)


def _listed(text: str | None) -> frozenset[str]:
    """The parts of a setting that is separated by commas."""
    return frozenset(part.strip() for part in (text or "").split(",") if part.strip())
