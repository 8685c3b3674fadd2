"""The hub: turns what happens into events, and tells them to everybody who listens."""

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Iterator

from common.broker.port import Broker
from common.ledger.port import Ledger
from common.tracking.port import Step, Tracker
from gateway.api.views import message_event, run_event, statistics_event
from gateway.live.audience import Audience
from gateway.live.frames import Encoded
from gateway.live.subscribers import GOING_AWAY, Subscriber
from gateway.live.watch import Watch

log = logging.getLogger(__name__)

MOST_SUBSCRIBERS = 2_000
# Events are gathered for so long, and joined to one frame.
GATHER_S = 0.05
# What goes to one subscriber in that time at most, and what may wait for it: beyond that the tracker's own bound holds.
GATHER_BYTES = 512 * 1024
MOST_STEPS = 20_000
LOOK_EVERY_S = 1.0
SWEEP_EVERY_S = 1.0


class Hub:
    """Relays the steps of tracked messages, and each second the statistics and the runs that moved.

    `watch` has the latest of these. `dropped` counts the subscriptions that the hub ended, by close code.
    """

    def __init__(
        self, ledger: Ledger, broker: Broker, tracker: Tracker, most_subscribers: int = MOST_SUBSCRIBERS
    ) -> None:
        self.watch = Watch(ledger, broker)
        self.dropped: Counter[int] = Counter()
        self._tracker = tracker
        self._most = most_subscribers
        self._audience = Audience()
        self._steps: deque[Step] = deque()
        self._some = asyncio.Event()
        self._statistics: Encoded | None = None

    @property
    def subscribers(self) -> int:
        """How many are connected."""
        return len(self._audience)

    @property
    def full(self) -> bool:
        """Whether there is room for nobody more."""
        return len(self._audience) >= self._most

    async def run(self) -> None:
        """Relays until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._relay())
            tasks.create_task(self._look())
            tasks.create_task(self._sweep())

    @contextlib.contextmanager
    def subscribed(self, subscriber: Subscriber) -> Iterator[None]:
        """While this lasts, the subscriber is told everything; first of all, the latest statistics."""
        self._audience.join(subscriber)
        if self._statistics is not None:
            subscriber.offer(subscriber.wire([self._statistics]))
        try:
            yield
        finally:
            self._audience.leave(subscriber)
            if subscriber.ending is not None:
                self.dropped[subscriber.ending.code] += 1
                if subscriber.ending != GOING_AWAY:
                    log.info("subscriber_dropped", extra={"reason": subscriber.ending.reason})

    async def _listen(self) -> None:
        async for steps in self._tracker.listen():
            if not len(self._audience):
                continue
            self._steps.extend(steps)
            self._some.set()
            while len(self._steps) > MOST_STEPS:
                await asyncio.sleep(GATHER_S)

    async def _relay(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(GATHER_S)
            self._some.clear()
            size = 0
            while self._steps and size < GATHER_BYTES:
                size += self._audience.add_step(self._steps.popleft(), message_event)
            if self._steps:
                self._some.set()
            await self._audience.broadcast()

    async def _look(self) -> None:
        due_s = time.monotonic()
        while True:
            stats, moved = await self.watch.look()
            if stats is not None:
                self._statistics = Encoded(b"statistics", statistics_event(stats))
                self._audience.add_for_all(self._statistics)
            for view in moved:
                self._audience.add_run(view.run, run_event(view))
            self._some.set()
            now_s = time.monotonic()
            due_s = max(due_s + LOOK_EVERY_S, now_s)
            await asyncio.sleep(due_s - now_s)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            for subscriber in self._audience:
                subscriber.check(time.monotonic())
