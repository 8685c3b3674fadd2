"""A gateway of events and runs alone, on memory ports; and clients of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
from starlette.applications import Starlette
from websockets.asyncio.client import ClientConnection, connect

from common.broker.memory import MemoryBroker
from common.broker.port import Broker
from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.ledger.values import Outcomes
from common.messages import Message, Outcome
from common.tracking.memory import MemoryTracker
from common.tracking.port import Status, Step
from common.web.guard import Guard
from common.web.keys.authenticator import Authenticator, KeyTiming
from common.web.keys.memory import MemoryApiKeys
from common.web.keys.port import new_key
from common.web.limits import Limits
from common.web.operations import Scope
from common.web.routing import routes_of
from common.web.server import serving
from gateway.api.events import Events
from gateway.api.runs import Runs
from gateway.live.broadcaster import Broadcaster
from gateway.live.limits import LiveLimits
from tests.waiting import eventually

NUMBER = "+541166587382"


@dataclass
class Streaming:
    """What is under test, and what it stands on."""

    hub: Broadcaster
    port: int
    ledger: Ledger
    tracker: MemoryTracker
    keys: MemoryApiKeys
    http: aiohttp.ClientSession
    serving: contextlib.AsyncExitStack

    async def stop(self) -> None:
        """Stops the server, as SIGTERM does; returns when it has stopped."""
        await self.serving.aclose()

    @property
    def address(self) -> str:
        return f"ws://127.0.0.1:{self.port}/events"

    async def get(self, path: str, **more: Any) -> tuple[int, Any]:
        """Status and JSON."""
        async with self.http.get(path, **more) as answer:
            return answer.status, await answer.json(content_type=None)

    def tell(self, seq: int, status: Status = Status.SENT, run: str = "a", text: str = "hello") -> None:
        """A step happens."""
        self.tracker.publish([step_of(seq, status, run, text)])

    async def listeners(self, count: int) -> None:
        """Returns once so many are connected."""
        await eventually(lambda: self.hub.subscribers == count, describe=f"{count} subscribers")


def step_of(seq: int, status: Status = Status.SENT, run: str = "a", text: str = "hello") -> Step:
    """A step at some time or other."""
    return Step(
        run=run,
        message=Message(seq=seq, to=NUMBER, text=text),
        status=status,
        attempt=0 if status is Status.QUEUED else 1,
        at_us=1_795_282_390_123_456,
        time_us=12_345 if status in (Status.SENT, Status.FAILED) else None,
    )


@contextlib.asynccontextmanager
async def streaming(
    ledger: Ledger | None = None,
    broker: Broker | None = None,
    required: bool = False,
    origins: frozenset[str] = frozenset(),
    limits: Limits | None = None,
    keys: KeyTiming | None = None,
    **live: Any,
) -> AsyncIterator[Streaming]:
    """Serves until left. `live` are those of `LiveLimits`; statistics come often, so that no test takes long."""
    ledger, broker, tracker = ledger or MemoryLedger(), broker or MemoryBroker(), MemoryTracker()
    api_keys = MemoryApiKeys()
    authenticator = Authenticator(api_keys, required, None, timing=keys)
    hub = Broadcaster(ledger, broker, tracker, LiveLimits(**{"poll_s": 0.05, **live}))
    events = Events(hub, authenticator)
    operations = [*events.operations(), *Runs(hub.poller, hub.owners).operations()]
    routes = [*routes_of(operations, authenticator, lambda *_: None), *events.websockets()]
    running = asyncio.create_task(hub.run())
    try:
        async with contextlib.AsyncExitStack() as server:
            port = await server.enter_async_context(
                serving(Guard(Starlette(routes=routes), None, origins), "127.0.0.1", 0, limits)
            )
            server.push_async_callback(hub.close)
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
                yield Streaming(hub, port, ledger, tracker, api_keys, http, server)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@dataclass
class Client:
    """A WebSocket client that reads all the time, and keeps what it heard."""

    socket: ClientConnection
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def messages(self) -> list[tuple[str, str]]:
        """Message id and status of each message event."""
        return [(it["uuid"], it["status"]) for it in self.events if it["type"] == "message"]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of a type."""
        return [it for it in self.events if it["type"] == kind]

    async def read(self) -> None:
        """Until it is closed."""
        async for frame in self.socket:
            assert isinstance(frame, str)
            self.events += json.loads(frame)

    async def hears(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event, so far or from now on, that is wanted."""
        heard: dict[str, Any] = await eventually(lambda: next(filter(wanted, self.events), None))
        return heard


@contextlib.asynccontextmanager
async def client(it: Streaming, query: str = "", **more: Any) -> AsyncIterator[Client]:
    """A client that is listening."""
    before = it.hub.subscribers
    async with connect(it.address + query, **more) as socket:
        listening = Client(socket)
        reading = asyncio.create_task(listening.read())
        try:
            await eventually(lambda: it.hub.subscribers > before or reading.done())
            yield listening
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def created(it: Streaming, *scopes: Scope) -> str:
    """A new API key."""
    kept, key = new_key("a-test", scopes, 0)
    assert await it.keys.add(kept)
    return key


async def publish(ledger: Ledger, run: str, total: int, settled: int) -> None:
    """A run of `total` messages, of which so many are sent."""
    if run not in await ledger.runs():
        await ledger.begin(run, "", total, "a-test")
        await ledger.announce(run, 0, total)
    seqs = np.arange(settled)
    await ledger.claim(run, seqs, redelivered=False)
    outcomes = Outcomes(seqs, np.full(settled, Outcome.SENT, np.uint8), np.full(settled, 2_000_000, np.int64))
    await ledger.settle(run, outcomes, "sender-1")
