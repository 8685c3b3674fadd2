"""The broadcaster: sends what happens to every client that listens."""

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator

from common.broker.port import Broker
from common.errors import SmsimError
from common.ledger.port import Ledger
from common.tracking.port import Step, Tracker
from gateway.api.views import message_event, run_event, statistics_event
from gateway.live.frames import Encoded
from gateway.live.limits import LiveLimits
from gateway.live.poller import Poller
from gateway.live.subscribers import GOING_AWAY, Subscriber
from gateway.live.subscriptions import Subscriptions
from gateway.owners import Owners

log = logging.getLogger(__name__)


class Broadcaster:
    """Sends the steps of tracked messages and, each second, the statistics and the runs that changed.

    Attributes:
        poller: Reads the ledger, for the broadcaster and for requests.
        owners: Knows whose each run is, for both as well.
        limits: Bounds and times.
        dropped: Subscriptions that the gateway ended, by close code.
    """

    def __init__(
        self, ledger: Ledger, broker: Broker, tracker: Tracker, limits: LiveLimits | None = None
    ) -> None:
        self.limits = limits or LiveLimits()
        self.poller = Poller(ledger, broker, self.limits)
        self.dropped: Counter[int] = Counter()
        self._tracker = tracker
        self.owners = Owners(ledger)
        self._subscriptions = Subscriptions(self.owners.has)
        self._steps: deque[Step] = deque()
        self._changed = asyncio.Event()
        self._statistics: Encoded | None = None
        self._closed = False

    @property
    def subscribers(self) -> int:
        """How many clients listen."""
        return len(self._subscriptions)

    @property
    def full(self) -> bool:
        """Whether no more clients may listen."""
        return self._closed or len(self._subscriptions) >= self.limits.subscribers

    async def run(self) -> None:
        """Works until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive_steps())
            tasks.create_task(self._send())
            tasks.create_task(self._poll())
            tasks.create_task(self._drop_stalled())

    async def close(self) -> None:
        """Ends all subscriptions, before the server stops. Returns when the clients were told, or did not read it."""
        self._closed = True
        for subscriber in self._subscriptions:
            subscriber.end(GOING_AWAY)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.goodbye_s):
                while self._subscriptions:
                    await asyncio.sleep(0.01)

    @contextlib.contextmanager
    def subscribed(self, subscriber: Subscriber) -> Iterator[None]:
        """While this lasts, the subscriber gets all events that it wants, and the latest statistics first."""
        self._subscriptions.add(subscriber)
        if self._statistics is not None and subscriber.filters.owner is None:
            subscriber.offer(subscriber.join([self._statistics]))
        try:
            yield
        finally:
            self._subscriptions.remove(subscriber)
            if subscriber.ending is not None:
                self.dropped[subscriber.ending.code] += 1
                if subscriber.ending != GOING_AWAY:
                    log.info("subscriber_dropped", extra={"reason": subscriber.ending.reason})

    async def _receive_steps(self) -> None:
        async for steps in self._tracker.listen():
            if not self._subscriptions:
                continue
            await self._learn_owners(step.run for step in steps)
            self._steps.extend(steps)
            self._changed.set()
            while len(self._steps) > self.limits.steps:
                await asyncio.sleep(self.limits.gather_s)

    async def _send(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(self.limits.gather_s)
            self._changed.clear()
            size = 0
            while self._steps and size < self.limits.gather_bytes:
                size += self._subscriptions.add_step(self._steps.popleft(), message_event)
            if self._steps:
                self._changed.set()
            await self._subscriptions.broadcast()

    async def _poll(self) -> None:
        due_s = time.monotonic()
        while True:
            found = await self.poller.poll()
            if found.statistics is not None:
                self._statistics = Encoded(b"statistics", statistics_event(found.statistics))
                self._subscriptions.add_for_all(self._statistics)
            self._subscriptions.add_sign_of_life()
            await self._learn_owners(view.run for view in found.changed)
            for view in found.changed:
                self._subscriptions.add_run(view.run, run_event(view))
            self._changed.set()
            now_s = time.monotonic()
            due_s = max(due_s + self.limits.poll_s, now_s)
            await asyncio.sleep(due_s - now_s)

    async def _learn_owners(self, runs: Iterable[str]) -> None:
        """Subscribers that see only what belongs to them miss the events of runs whose owner can't be read."""
        if self._subscriptions.need_owners:
            with contextlib.suppress(SmsimError):
                await self.owners.learn(runs)

    async def _drop_stalled(self) -> None:
        while True:
            await asyncio.sleep(self.limits.sweep_s)
            for subscriber in self._subscriptions:
                subscriber.check(time.monotonic())
