"""The embedded pipeline: producer, sender and monitor in one process, on the memory broker and the memory ledger."""

import asyncio
import contextlib
import math
from dataclasses import dataclass

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.ledger.values import Snapshot
from common.messages import Lane
from common.publishing.recipes import Source, recipe_text
from common.publishing.run import Job, RunPublisher
from common.settings import Settings
from common.stores import memory_stores
from monitor.service import show_live
from sender.providers.registry import build_provider
from sender.service import Sender, build_sender
from sender.slots import Slots


@dataclass(frozen=True)
class Limits:
    """The limits of an embedded run.

    Attributes:
        batches_in_flight: A batch is at most the slots divided by this, which keeps the slots evenly filled.
        largest_batch: The most messages in a batch.
        messages_ahead: The most messages that wait between producer and sender, beyond ten batches, so that memory
            is bounded for any run.
        follow_every_s: How often the ledger is asked whether the run is over, in seconds.
    """

    batches_in_flight: int = 64
    largest_batch: int = 512
    messages_ahead: int = 65_536
    follow_every_s: float = 0.02


LIMITS = Limits()


@dataclass(frozen=True)
class Simulation:
    """An embedded run.

    Attributes:
        run: Its run id.
        source: The messages.
        senders: The number of slots for bulk messages.
        batch_size: Messages in a batch.
        lane: The lane that they go through.
        settings: The settings of producer and sender.
    """

    run: str
    source: Source
    senders: int
    batch_size: int
    lane: Lane
    settings: Settings

    @property
    def job(self) -> Job:
        """What its producer publishes."""
        return Job(run=self.run, source=self.source, batch_size=self.batch_size, lane=self.lane)

    @property
    def in_flight(self) -> int:
        """The most sends in flight: urgent messages have slots on top."""
        return Slots(self.senders).most(self.lane)


def fitting_batch_size(senders: int) -> int:
    """The batch size for a number of slots, unless one is asked for."""
    share = math.ceil(senders / LIMITS.batches_in_flight)
    return max(1, min(LIMITS.largest_batch, share))


async def simulate(
    simulation: Simulation, stop: asyncio.Event, live: bool, ledger: MemoryLedger | None = None
) -> Snapshot:
    """Runs it until every message is settled, or `stop` is set; returns the last snapshot.

    `live` shows the statistics in the terminal. A caller can observe the run in a ledger of its own.
    """
    # Failed messages are not kept: the queue of an embedded run ends with it.
    changes = {"sender_concurrency": simulation.senders, "keep_failed": False}
    settings = simulation.settings.model_copy(update=changes)
    ahead = min(2 * simulation.senders, LIMITS.messages_ahead)
    broker = MemoryBroker(capacity=ahead + 10 * simulation.batch_size)
    stores = memory_stores(settings, ledger)
    sender = build_sender("embedded", settings, broker, stores, build_provider(settings), tracked=False)
    await _begin(simulation, stores.ledger)
    try:
        publisher = RunPublisher(broker, stores.ledger, simulation.job)
        await _run(simulation.run, sender, publisher, stores.ledger, stop, live=live)
    finally:
        await broker.close()
    return await stores.ledger.snapshot(simulation.run)


async def _begin(simulation: Simulation, ledger: Ledger) -> None:
    recipe = simulation.source.recipe(simulation.batch_size, simulation.lane)
    await ledger.begin(simulation.run, recipe_text(recipe), simulation.source.count, "embedded")


async def _run(
    run: str,
    sender: Sender,
    publisher: RunPublisher,
    ledger: Ledger,
    stop: asyncio.Event,
    *,
    live: bool,
) -> None:
    """Publishes and sends until the run is over or stopped; then ends the sender gracefully, and the view last."""
    sender_stop, view_stop = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(sender.run(sender_stop))
        publishing = tasks.create_task(publisher.publish())
        if live:
            tasks.create_task(show_live(ledger, run, view_stop))
        await _settled_or_stopped(ledger, run, stop)
        publishing.cancel()
        sender_stop.set()
        await sending
        view_stop.set()


async def _settled_or_stopped(ledger: Ledger, run: str, stop: asyncio.Event) -> None:
    while True:
        now = await ledger.snapshot(run)
        if now.settled >= now.total:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LIMITS.follow_every_s)
            return
