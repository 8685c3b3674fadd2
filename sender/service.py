"""A sender: both lanes over one provider and one ledger, its heartbeat, and its graceful end."""

import asyncio
import logging
import time
from functools import partial

from common.broker.port import Broker
from common.errors import Refused
from common.health import beat
from common.ledger.port import Claims
from common.messages import Lane
from common.rate.port import RateLimit
from common.settings import Settings
from common.stores import Stores
from common.tracking.port import Tracker
from sender.copies import Copies, RetryPolicy
from sender.lane import LaneWorker
from sender.providers.bulk import BulkProvider
from sender.settle import SendCounts, Settler
from sender.slots import Slots
from sender.start import Starter
from sender.timing import LIMITS, TIMING, Limits, Timing
from sender.unacked import Unacked

log = logging.getLogger(__name__)


class Sender:
    """Sends messages until it is stopped.

    At most `slots` bulk messages are in flight, and urgent ones besides: a tenth of `slots`, and every slot that bulk
    messages leave free. The caller closes the tracker.

    Attributes:
        name: Its name in the statistics.
        slots: Its slots, and who has them.
        lanes: One worker for each lane.
        last_heartbeat_s: When the ledger last answered a heartbeat, in Unix time; 0 before that.
    """

    def __init__(
        self,
        name: str,
        broker: Broker,
        ledger: Claims,
        provider: BulkProvider,
        *,
        slots: int,
        policy: RetryPolicy | None = None,
        grace_s: float = 8.0,
        limit: RateLimit | None = None,
        tracker: Tracker | None = None,
        timing: Timing = TIMING,
        limits: Limits = LIMITS,
    ) -> None:
        policy = policy or RetryPolicy()
        self.name = name
        self.slots = Slots(slots)
        self.last_heartbeat_s = 0.0
        self._ledger = ledger
        self._provider = provider
        self._broker = broker
        self._grace_s = grace_s
        self._limit = limit
        self._tracker = tracker
        self._timing = timing
        self._limits = limits
        self._ending = asyncio.Event()
        self._refused: Refused | None = None
        self._copies = Copies(
            broker, ledger, policy, on_refused=self._end_refused, timing=timing, limits=limits
        )
        self._settler = Settler(
            name, ledger, self._copies, policy, tracker=tracker, timing=timing, limits=limits
        )
        self.lanes = [self._worker(Lane.BULK), self._worker(Lane.URGENT)]

    @property
    def counts(self) -> SendCounts:
        """The sends that are settled."""
        return self._settler.counts

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set, then ends gracefully.

        Raises Refused if the broker does not let it in again, or takes no copy, after the same graceful end.
        """
        parts = [self._copies.run, self._settler.run, *(lane.run for lane in self.lanes), self._heartbeat]
        parts.append(partial(self._heed, stop))
        try:
            async with asyncio.TaskGroup() as tasks:
                work = [tasks.create_task(part()) for part in parts]
                log.info("sender_started", extra={"sender": self.name, "slots": self.slots.most(Lane.BULK)})
                await self._ending.wait()
                await self._end()
                for task in work:
                    task.cancel()
        finally:
            await self._provider.close()
        if self._refused is not None:
            raise self._refused

    async def _heed(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._ending.set()

    def _end_refused(self, refused: Refused) -> None:
        self._refused = refused
        self._ending.set()

    def _worker(self, lane: Lane) -> LaneWorker:
        return LaneWorker(
            self._unacked(lane),
            slots=self.slots,
            broker=self._broker,
            starter=self._starter(lane),
            settler=self._settler,
            copies=self._copies,
            on_refused=self._end_refused,
            limit=self._limit,
            timing=self._timing,
            limits=self._limits,
        )

    def _unacked(self, lane: Lane) -> Unacked:
        return Unacked(
            lane,
            self.slots,
            keep_messages=self._provider.reads_messages,
            keep_tracked=self._tracker is not None,
            limits=self._limits,
        )

    def _starter(self, lane: Lane) -> Starter:
        return Starter(
            lane,
            slots=self.slots,
            ledger=self._ledger,
            provider=self._provider,
            settler=self._settler,
            tracker=self._tracker,
        )

    async def _end(self) -> None:
        log.info("sender_stopping", extra=self._state)
        try:
            async with asyncio.timeout(self._grace_s):
                await asyncio.gather(*(lane.stop() for lane in self.lanes))
        except TimeoutError:
            # The messages in flight come again to another sender, and count as ambiguous there.
            log.warning("grace_over", extra=self._state)
        await self._settle_the_last()
        for lane in self.lanes:
            lane.unacked.release_all()
        log.info("sender_stopped", extra={"sender": self.name})

    async def _settle_the_last(self) -> None:
        try:
            async with asyncio.timeout(self._timing.last_settle_s):
                await self._settler.drain()
                await self._ledger.deregister(self.name)
        except TimeoutError:
            log.warning("last_settle_unanswered", extra={"sender": self.name})

    @property
    def _state(self) -> dict[str, object]:
        return {"sender": self.name, "in_flight": self._in_flight}

    @property
    def _in_flight(self) -> int:
        return sum(lane.in_flight for lane in self.lanes)

    async def _heartbeat(self) -> None:
        known_since_us: int | None = None
        while True:
            since_us = await self._ledger.heartbeat(self.name, self.slots.total, self._in_flight)
            if known_since_us is not None and since_us > known_since_us:
                log.warning("ledger_lost_writes", extra={"sender": self.name, "advice": "run smsim audit"})
            known_since_us = since_us
            self.last_heartbeat_s = time.time()
            beat(self._timing.heartbeat_s)
            await asyncio.sleep(self._timing.heartbeat_s)


def build_sender(
    name: str,
    settings: Settings,
    broker: Broker,
    stores: Stores,
    provider: BulkProvider,
    *,
    tracked: bool = True,
) -> Sender:
    """The sender of the settings. Commands, simulations and tests build theirs here."""
    return Sender(
        name,
        broker,
        stores.ledger,
        provider,
        slots=settings.sender_concurrency,
        policy=RetryPolicy(settings.max_attempts, settings.retry_backoff, settings.keep_failed),
        grace_s=settings.shutdown_grace,
        limit=stores.rate_limit,
        tracker=stores.tracker if tracked else None,
    )
