"""A sender: both lanes over one provider and one ledger, its heartbeat, and its graceful end."""

import asyncio
import logging
import time

from common.broker.port import Broker
from common.health import beat
from common.ledger.port import Ledger
from common.messages import Lane
from common.rate.port import RateLimit
from common.tracking.port import Tracker
from sender.lane import LaneWorker
from sender.providers.bulk import BulkProvider
from sender.recorder import Recorder
from sender.slots import Slots

log = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
# What the end may take beyond the grace: the last settle, the last acks. Docker kills 10 s after SIGTERM.
LAST_WORDS_S = 1.5


class Sender:
    """Sends until told to stop. `slots` bulk sends are in flight at most, and urgent ones besides: a tenth of that
    again, and any slot that bulk ones leave free.

    With a `tracker` it tells the steps of tracked messages; whoever made the tracker closes it.
    """

    def __init__(
        self,
        name: str,
        broker: Broker,
        ledger: Ledger,
        provider: BulkProvider,
        slots: int,
        max_attempts: int = 1,
        retry_backoff_s: float = 1.0,
        grace_s: float = 8.0,
        keep_failed: bool = False,
        limit: RateLimit | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.name = name
        self._ledger = ledger
        self._provider = provider
        self._grace_s = grace_s
        self._recorder = Recorder(ledger, broker, name, max_attempts, retry_backoff_s, keep_failed, tracker)
        self.counts = self._recorder.counts
        self.heard_s = 0.0  # when the ledger last answered a heartbeat, in Unix time
        self.slots = Slots(slots)
        self.lanes = [
            LaneWorker(lane, self.slots, broker, ledger, provider, self._recorder, limit, tracker)
            for lane in (Lane.BULK, Lane.URGENT)
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set, then ends gracefully. Raises Refused if the broker will not have it back."""
        try:
            async with asyncio.TaskGroup() as tasks:
                work = [tasks.create_task(lane.run()) for lane in self.lanes]
                work += [tasks.create_task(self._recorder.run()), tasks.create_task(self._heartbeat())]
                slots = self.slots.most(Lane.BULK)
                log.info("sender_started", extra={"sender": self.name, "slots": slots})
                await stop.wait()
                await self._end()
                for task in work:
                    task.cancel()
        finally:
            await self._provider.close()

    async def _end(self) -> None:
        log.info("sender_stopping", extra={"sender": self.name, "in_flight": self._in_flight})
        try:
            async with asyncio.timeout(self._grace_s):
                await asyncio.gather(*(lane.stop() for lane in self.lanes))
        except TimeoutError:
            # What is still in flight comes again to another sender, and counts as ambiguous there.
            log.warning("grace_over", extra={"sender": self.name, "in_flight": self._in_flight})
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self._recorder.drain()
                await self._ledger.deregister(self.name)
        except TimeoutError:
            log.warning("last_settle_unanswered", extra={"sender": self.name})
        for lane in self.lanes:
            lane.hand_back()
        log.info("sender_stopped", extra={"sender": self.name})

    @property
    def _in_flight(self) -> int:
        return sum(lane.in_flight for lane in self.lanes)

    async def _heartbeat(self) -> None:
        while True:
            await self._ledger.heartbeat(self.name, self.slots.total, self._in_flight)
            self.heard_s = time.time()
            beat(HEARTBEAT_S)
            await asyncio.sleep(HEARTBEAT_S)
