"""The embedded pipeline: producer, sender and monitor in one process, on the memory broker and the memory ledger."""

import asyncio
import contextlib
import math
from dataclasses import dataclass

import msgspec

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.ledger.values import Snapshot
from common.messages import Lane
from common.publishing.publish import Producer
from common.publishing.recipes import Source
from common.settings import Settings
from common.stores import memory_stores
from monitor.service import show_live
from sender.providers.registry import build_provider
from sender.service import Sender
from sender.slots import Slots

SENDER = "embedded"
FOLLOW_EVERY_S = 0.02
# A batch no larger than this share of the slots keeps the slots evenly filled.
BATCHES_IN_FLIGHT = 64
LARGEST_BATCH = 512
# Messages that wait between producer and senders at most, if the slots are not fewer.
AHEAD = 65_536


@dataclass(frozen=True)
class Simulation:
    """One embedded run. `senders` is the number of slots for bulk messages."""

    run: str
    source: Source
    senders: int
    batch_size: int
    lane: Lane
    settings: Settings

    @property
    def in_flight(self) -> int:
        """Sends in flight at most: urgent ones may have the slots that are there for them besides."""
        return Slots(self.senders).most(self.lane)


def fitting_batch_size(senders: int) -> int:
    """The batch size for a number of slots, where nobody asks for another."""
    return max(1, min(LARGEST_BATCH, math.ceil(senders / BATCHES_IN_FLIGHT)))


async def simulate(
    simulation: Simulation, stop: asyncio.Event, live: bool, ledger: MemoryLedger | None = None
) -> Snapshot:
    """Runs it until every message is sent or failed, or until told to stop; gives the last snapshot.

    With a ledger of the caller's it can be looked at meanwhile.
    """
    settings, run = simulation.settings, simulation.run
    # The producer runs ahead of the senders by so much, so that memory is bounded for any N.
    broker = MemoryBroker(capacity=min(2 * simulation.senders, AHEAD) + 10 * simulation.batch_size)
    stores = memory_stores(settings, ledger)
    sender = Sender(
        SENDER,
        broker,
        stores.ledger,
        build_provider(settings.model_copy(update={"sender_concurrency": simulation.senders})),
        simulation.senders,
        settings.max_attempts,
        settings.retry_backoff,
        settings.shutdown_grace,
        limit=stores.rate_limit,
    )
    recipe = simulation.source.recipe(simulation.batch_size, simulation.lane)
    await stores.ledger.begin(run, msgspec.json.encode(recipe).decode(), simulation.source.count, "embedded")
    ended, sender_stop = asyncio.Event(), asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(sender.run(sender_stop))
            publishing = tasks.create_task(
                Producer(broker, stores.ledger).publish(
                    run, simulation.source, simulation.batch_size, simulation.lane
                )
            )
            viewing = tasks.create_task(show_live(stores.ledger, run, ended)) if live else None
            await _settled_or_stopped(stores.ledger, run, stop)
            publishing.cancel()
            sender_stop.set()
            await sending
            ended.set()
            if viewing:
                await viewing
    finally:
        await broker.close()
    return await stores.ledger.snapshot(run)


def _over(snapshot: Snapshot) -> bool:
    return snapshot.settled >= snapshot.total


async def _settled_or_stopped(ledger: Ledger, run: str, stop: asyncio.Event) -> None:
    while not _over(await ledger.snapshot(run)):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), FOLLOW_EVERY_S)
            return
