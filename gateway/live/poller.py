"""The poller: reads the statistics and the runs that changed, each second for the live events, and for requests."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from common.broker.port import Broker
from common.errors import SmsimError, Unavailable
from common.ledger.port import Ledger
from common.ledger.values import Snapshot
from gateway.api.views import RunView, StatsView, stats_view
from gateway.live.coalesced import CoalescedRead
from gateway.live.limits import LiveLimits
from gateway.live.runs import RunsPoller

log = logging.getLogger(__name__)


class Found(NamedTuple):
    """The result of a poll.

    Attributes:
        statistics: None while the ledger is away.
        changed: Runs that changed since the last poll.
    """

    statistics: StatsView | None
    changed: list[RunView]


class Poller:
    """Reads the ledger and the broker. Concurrent requests share a read, so that they cost a few reads a second."""

    def __init__(self, ledger: Ledger, broker: Broker, limits: LiveLimits) -> None:
        self._ledger = ledger
        self._broker = broker
        self._limits = limits
        self._last: Snapshot | None = None
        self._before: Snapshot | None = None
        self._runs = RunsPoller(ledger, limits)
        self._statistics = CoalescedRead(self._read_statistics, limits.share_s)
        self._list = CoalescedRead(self._read_list, limits.share_s)
        self._wanted = 0  # runs that the callers who wait for the list want
        self._away = False
        # When the broker was last asked for new queues, and what had been retried and had failed then.
        self._queues_s = float("-inf")
        self._queues_at: tuple[int, int] | None = None

    async def poll(self) -> Found:
        """Reads the statistics and the runs that may have changed."""
        statistics: StatsView | None = None
        changed: list[RunView] = []
        try:
            async with asyncio.timeout(self._limits.patience_s):
                now, depths = await asyncio.gather(self._ledger.snapshot(), self._depths_and_new_queues())
                statistics = stats_view(now, self._last, depths)
                self._before, self._last = self._last, now
                await self._runs.poll(changed.append)
        except (TimeoutError, SmsimError) as error:
            if not self._away:
                reason = str(error) or "the ledger does not answer"
                log.warning("statistics_missing", extra={"reason": reason})
            self._away = True
        else:
            self._away = False
        return Found(statistics, changed)

    async def statistics(self) -> StatsView:
        """The statistics now. Raises Unavailable."""
        return await self._statistics.get()

    async def runs(self, limit: int) -> list[RunView]:
        """The newest runs as they are now, newest first. Raises Unavailable."""
        self._wanted = max(self._wanted, limit)
        return (await self._list.get())[:limit]

    async def snapshot(self, run: str) -> Snapshot:
        """A run as it is now. Raises UnknownRun, Unavailable."""
        async with self._patience():
            return await self._ledger.snapshot(run)

    def earlier(self, run: str) -> Snapshot | None:
        """A snapshot of an open run, a second or two old, to compute its rate from."""
        return self._runs.earlier(run)

    async def _read_statistics(self) -> StatsView:
        async with self._patience():
            within_s = self._limits.depths_within_s
            now, depths = await asyncio.gather(self._ledger.snapshot(), self._depths(within_s))
            return stats_view(now, self._before, depths)

    async def _read_list(self) -> list[RunView]:
        limit, self._wanted = self._wanted, 0
        async with self._patience():
            return await self._runs.newest(limit)

    async def _depths_and_new_queues(self) -> dict[str, int] | None:
        """Queue depths. Looks for new queues only after retries and failures, which may have created some.

        Each queue that is looked for and does not exist leaves two lines in RabbitMQ's log.
        """
        before, now_s = self._last, time.monotonic()
        counted = (before.retried, before.failed) if before else (0, 0)
        refresh = counted != self._queues_at and now_s - self._queues_s > self._limits.new_queues_s
        depths = await self._depths(self._limits.patience_s / 2, refresh)
        if refresh and depths is not None:
            self._queues_s, self._queues_at = now_s, counted
        return depths

    async def _depths(self, within_s: float, refresh: bool = False) -> dict[str, int] | None:
        """None if the broker does not answer in time."""
        try:
            async with asyncio.timeout(within_s):
                return await self._broker.depths(refresh)
        except (TimeoutError, SmsimError):
            return None

    @contextlib.asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._limits.patience_s):
                yield
        except TimeoutError:
            raise Unavailable("the ledger does not answer") from None
