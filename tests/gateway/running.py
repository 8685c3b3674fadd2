"""A gateway that runs in the test's own event loop, on memory ports, with a sender beside it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp

from common.audit import AuditLog
from common.broker.memory import MemoryBroker
from common.broker.port import Broker
from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.settings import Settings, load_settings
from common.stores import Stores
from common.tracking.memory import MemoryTracker
from common.tracking.port import Tracker
from gateway.acceptance.limits import AcceptanceLimits, RelayLimits
from gateway.app import Gateway
from gateway.callbacks.limits import CallbackLimits
from gateway.callbacks.memory import MemoryCallbacks
from gateway.doors import gateway_tls
from gateway.limits import GatewayLimits
from gateway.stores import GatewayStores, memory_gateway_stores
from sender.providers.bulk import BulkProvider
from sender.providers.registry import build_provider
from sender.service import build_sender
from tests.waiting import eventually

NUMBER = "+541166587382"
KEY = "a-key-for-tests-only"


@dataclass
class Running:
    """A gateway under test. `http` has its address as base, and sends no key."""

    gateway: Gateway
    port: int
    broker: Broker
    ledger: Ledger
    tracker: Tracker
    stores: GatewayStores
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def get(self, path: str, **more: Any) -> tuple[int, Any]:
        """Status and JSON."""
        async with self.http.get(path, **more) as answer:
            return answer.status, await answer.json(content_type=None)

    async def post(self, path: str, json: Any = None, **more: Any) -> tuple[int, Any]:
        """Status and JSON."""
        async with self.http.post(path, json=json, **more) as answer:
            return answer.status, await answer.json(content_type=None)

    async def send(self, number: str = NUMBER, text: str = "hello", **more: Any) -> dict[str, Any]:
        """Sends one message; gives what is answered to it."""
        status, accepted = await self.post("/sms", {"number": number, "text": text, **more})
        assert status == 202, accepted
        assert isinstance(accepted, dict)
        return accepted

    async def ends(self, uuid: str) -> dict[str, Any]:
        """The message, once it is sent or failed and its last step is known."""

        async def view() -> Any:
            status, seen = await self.get(f"/sms/{uuid}")
            assert status == 200, seen
            assert seen["status"] in ("sent", "failed"), seen
            return seen if seen["settled_at"] or not seen["steps"] else None

        ended: dict[str, Any] = await eventually(view, describe=f"{uuid} is settled")
        return ended


def quick_settings(**more: object) -> Settings:
    """Quick sends, none of which fails; no authentication."""
    quick: dict[str, object] = {"mean_processing_time": 0.01, "failure_rate": 0.0, "gateway_auth": False}
    return load_settings(**{**quick, **more})


@contextlib.asynccontextmanager
async def running(
    *,
    stand_in: bool = False,
    broker: Broker | None = None,
    ledger: Ledger | None = None,
    tracker: Tracker | None = None,
    stores: GatewayStores | None = None,
    callbacks: MemoryCallbacks | None = None,
    acceptance_limits: AcceptanceLimits | None = None,
    relay_limits: RelayLimits | None = None,
    callback_limits: CallbackLimits | None = None,
    provider: BulkProvider | None = None,
    sends: bool = True,
    audit: AuditLog | None = None,
    **settings: object,
) -> AsyncIterator[Running]:
    """Serves until left. `settings` are those of the environment; `sends` False: there is no sender."""
    given = quick_settings(**settings)
    broker = broker or MemoryBroker()
    ledger = ledger or (stores.ledger if stores else MemoryLedger())
    tracker = tracker or (stores.tracker if stores else MemoryTracker())
    if stores is None:
        assert isinstance(ledger, MemoryLedger)
        assert isinstance(tracker, MemoryTracker)
        stores = memory_gateway_stores(given, ledger=ledger, tracker=tracker, callbacks=callbacks)
    limits = GatewayLimits(
        acceptance=acceptance_limits or AcceptanceLimits(),
        relay=relay_limits or RelayLimits(),
        callbacks=callback_limits or CallbackLimits(),
    )
    gateway = Gateway(given, broker, stores, stand_in=stand_in, limits=limits, audit=audit)
    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(gateway.serving("127.0.0.1", 0, gateway_tls(given)))
        http = await stack.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{port}"))
        sending = None
        if sends:
            of_sender = given.model_copy(update={"sender_concurrency": 100})
            shared = Stores(ledger, tracker, rate_limit=None, api_keys=stores.api_keys)
            sender = build_sender("a-sender", of_sender, broker, shared, provider or build_provider(given))
            sending = asyncio.create_task(sender.run(stop))
        try:
            yield Running(gateway, port, broker, ledger, tracker, stores, http)
        finally:
            stop.set()
            if sending is not None:
                await sending
    await broker.close()
    await tracker.close()
