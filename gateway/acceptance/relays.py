"""The relays of this gateway: of the runs that it accepts into, and of those that it takes over from others."""

import asyncio
import logging
import math

from common.background import end
from common.broker.port import Broker
from common.errors import SmsimError
from common.ledger.port import Ledger
from gateway.acceptance.limits import RelayLimits
from gateway.acceptance.port import Acceptances, Kept, LeaseLost, Outbox
from gateway.acceptance.relay import Relay, Room

log = logging.getLogger(__name__)


class Relays:
    """Keeps a relay for each run, and looks for runs whose gateway has died, while `run` works."""

    def __init__(
        self, broker: Broker, store: Acceptances, ledger: Ledger, limits: RelayLimits | None = None
    ) -> None:
        self._broker = broker
        self._store = store
        self._ledger = ledger
        self._limits = limits or RelayLimits()
        self._room = Room(self._limits.buffered)
        self._relays: dict[Relay, asyncio.Task[None]] = {}
        # Messages in all outboxes, and what is kept for show, as of the last look.
        self.backlog = 0
        self.kept = Kept()
        self._memory_is_high = False

    @property
    def are_full(self) -> bool:
        """Whether as many runs are relayed as may be."""
        return len(self._relays) >= self._limits.runs

    @property
    def have_memory_for_runs(self) -> bool:
        """Whether the store had memory for more runs at the last look."""
        return self._share_in_use < self._limits.memory_for_runs

    def start(self, outbox: Outbox) -> Relay:
        """Relays a run from now on."""
        relay = Relay(
            outbox,
            broker=self._broker,
            store=self._store,
            ledger=self._ledger,
            limits=self._limits,
            room=self._room,
        )
        self._relays[relay] = asyncio.create_task(self._keep(relay))
        return relay

    async def run(self) -> None:
        """Takes over runs whose lease has ended, and trims what is kept for show, until cancelled."""
        clock = asyncio.get_running_loop().time
        answers_since_s = clock()
        while True:
            await asyncio.sleep(self._limits.look_s)
            try:
                async with asyncio.timeout(self._limits.prompt_s):
                    self.backlog, _ = await self._store.backlog()
                    self.kept = await self._store.trim()
                    self._watch_memory()
                    if clock() - answers_since_s >= self._limits.settled_s:
                        await self._take_over()
            except (SmsimError, TimeoutError):
                answers_since_s = clock()

    async def close(self) -> None:
        """Relays the accepted messages within the time limit, then gives the leases up."""
        for relay in self._relays:
            relay.close()
        tasks = set(self._relays.values())
        if tasks:
            await asyncio.wait(tasks, timeout=self._limits.finish_s)
        left = [relay.outbox for relay, task in self._relays.items() if not task.done()]
        await end(tasks)
        if left:
            log.warning("outboxes_left", extra={"runs": len(left), "reason": "another gateway relays them"})
            await self._release(left)

    async def _release(self, left: list[Outbox]) -> None:
        try:
            async with asyncio.timeout(self._limits.finish_s):
                await asyncio.gather(*(self._store.release(outbox.lease) for outbox in left))
        except (SmsimError, TimeoutError) as error:
            log.warning("leases_not_released", extra={"runs": len(left), "reason": str(error)})

    async def _take_over(self) -> None:
        while not self.are_full and (outbox := await self._store.take_over(silent_s=0)) is not None:
            log.info(
                "run_taken_over",
                extra={"run": outbox.lease.run, "messages": outbox.accepted - outbox.relayed},
            )
            self.start(outbox).close()

    @property
    def _share_in_use(self) -> float:
        """The share of the store's memory that is in use."""
        return self.kept.used_bytes / (self.kept.memory_bytes or math.inf)

    def _watch_memory(self) -> None:
        """Warns once when the store is nearly full, and again after it was not."""
        share = self._share_in_use
        if share >= self._limits.memory_high and not self._memory_is_high:
            about = {"used_bytes": self.kept.used_bytes, "maxmemory": self.kept.memory_bytes}
            advice = "texts give way; beyond maxmemory Redis refuses messages: raise it, or lower RUN_TTL"
            log.warning("redis_memory_high", extra={**about, "kept_bytes": self.kept.bytes, "advice": advice})
        if not self._limits.memory_well <= share < self._limits.memory_high:
            self._memory_is_high = share >= self._limits.memory_high

    async def _keep(self, relay: Relay) -> None:
        """Runs a relay; one that fails is begun again from where the store has it."""
        run = relay.outbox.lease.run
        try:
            await relay.run()
        except LeaseLost as error:
            log.warning("lease_lost", extra={"run": run, "reason": str(error)})
        except Exception as error:  # its lease ends, and a gateway, which may be this one, takes it over
            log.error("relay_failed", extra={"run": run}, exc_info=error)
        finally:
            self._relays.pop(relay, None)
