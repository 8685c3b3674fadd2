"""For tests of acceptance: a store whose calls can be held up, as by a Redis that is away or a gateway that sleeps."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from common.broker.memory import MemoryBroker
from common.errors import PublishFailed
from common.ledger.memory import MemoryLedger
from common.messages import Batch, Lane, Message
from common.tracking.memory import MemoryTracker
from common.web.keys.memory import MemoryApiKeys
from gateway.acceptance.limits import AcceptanceLimits, RelayLimits
from gateway.acceptance.memory import MemoryAcceptances
from gateway.acceptance.port import (
    NOBODY,
    Acceptances,
    Exceptional,
    Group,
    GroupAnswer,
    Kept,
    Lease,
    NewRun,
    Outbox,
    Owner,
)
from gateway.callbacks.memory import MemoryCallbacks
from gateway.stores import GatewayStores
from tests.gateway.running import Running, running

T = TypeVar("T")

QUICK_RELAYS = RelayLimits(confirm_s=0.01, pause_s=0.01, look_s=0.02, settled_s=0.0, finish_s=0.2)


class Away(MemoryBroker):
    """A broker whose publishes fail while it is `away`, whether it `kept` the batch or not."""

    away = True
    kept = False

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        if not self.away:
            return super().publish(batch, lane, after)
        if self.kept:
            super().publish(batch, lane, after)
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.set_exception(PublishFailed("the connection is lost"))
        return lost


class Gate:
    """Once shut, the next call waits there until `wake`; others pass."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._woken = asyncio.Event()
        self._is_shut = False

    def shut(self) -> None:
        self._is_shut = True

    def wake(self) -> None:
        """The call that waits goes on."""
        self._woken.set()

    async def passed(self) -> None:
        if self._is_shut:
            self._is_shut = False
            self.reached.set()
            await self._woken.wait()


class GatedStore:
    """The store of one gateway: a gate before and after each call. What waits `before` is not carried out yet.

    A call that has begun is carried out, whether somebody waits for its answer or not, as Redis does.
    """

    def __init__(self, store: MemoryAcceptances) -> None:
        self._store = store
        self.gates: dict[str, Gate] = {}
        self.groups: list[int] = []
        self._calls: set[asyncio.Task[Any]] = set()

    def gate(self, name: str) -> Gate:
        return self.gates.setdefault(name, Gate())

    async def _call(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        async def carry_out() -> T:
            await self.gate(f"before {name}").passed()
            answer = await call()
            await self.gate(f"after {name}").passed()
            return answer

        task = asyncio.create_task(carry_out())
        self._calls.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()

    async def open(self, run: str, lane: Lane, owner: Owner = NOBODY) -> Outbox:
        return await self._call("open", lambda: self._store.open(run, lane, owner))

    async def accept(self, outbox: Outbox, group: Group) -> GroupAnswer:
        self.groups.append(len(group.items))
        return await self._call("accept", lambda: self._store.accept(outbox, group))

    async def accept_run(self, batch: NewRun) -> Outbox | Exceptional:
        return await self._call("accept_run", lambda: self._store.accept_run(batch))

    async def confirm(self, lease: Lease, relayed: int, close: bool = False) -> int:
        return await self._call("confirm", lambda: self._store.confirm(lease, relayed, close))

    async def release(self, lease: Lease) -> None:
        await self._call("release", lambda: self._store.release(lease))

    async def take_over(self, silent_s: float) -> Outbox | None:
        return await self._store.take_over(silent_s)

    async def read(self, outbox: Outbox, first: int, count: int) -> list[Message | None]:
        return await self._store.read(outbox, first, count)

    async def backlog(self) -> tuple[int, int]:
        return await self._store.backlog()

    async def trim(self) -> Kept:
        return await self._store.trim()


class Shared:
    """What two gateways of a test share, and the clock of their leases."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.ledger = MemoryLedger()
        self.tracker = MemoryTracker()
        self.callbacks = MemoryCallbacks(clock=lambda: self.now_s)
        self.store = MemoryAcceptances(
            self.ledger, self.tracker, self.callbacks, clock=lambda: self.now_s, lease_s=10.0
        )

    def stores(self, acceptances: Acceptances) -> GatewayStores:
        return GatewayStores(
            ledger=self.ledger,
            tracker=self.tracker,
            api_keys=MemoryApiKeys(),
            callbacks=self.callbacks,
            acceptances=acceptances,
        )


@dataclass
class World:
    """A gateway on a store with gates."""

    gateway: Running
    store: GatedStore
    shared: Shared

    async def die(self) -> None:
        """Ends what the gateway does with its store, in the middle; leases stay as they are."""
        acceptance = self.gateway.gateway.acceptance
        assert acceptance._working is not None
        tasks = {*acceptance._tasks.values(), *acceptance._relays._relays.values(), acceptance._working}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def world(
    shared: Shared | None = None,
    *,
    limits: AcceptanceLimits | None = None,
    relay_limits: RelayLimits = QUICK_RELAYS,
    **more: Any,
) -> AsyncIterator[World]:
    """A gateway, with a sender unless `sends` is False. `more` is for `running`."""
    shared = shared or Shared()
    store = GatedStore(shared.store)
    about = {
        "acceptance_limits": limits,
        "relay_limits": relay_limits,
        "callback_secret": "a-secret-for-tests",
    }
    async with running(stores=shared.stores(store), **{**about, **more}) as gateway:
        yield World(gateway, store, shared)
