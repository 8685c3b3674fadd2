"""Watches the ledger and the broker: the latest statistics and the latest view of each run."""

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from common.broker.port import Broker
from common.counters import COUNTERS
from common.errors import SmsimError, Unavailable, UnknownRun
from common.ledger.port import Ledger
from common.ledger.values import Snapshot
from gateway.api.views import RunView, StatsView, run_view, stats_view
from gateway.live.fresh import Fresh

log = logging.getLogger(__name__)

# How long a look may take: calls of the ledger wait until it answers, however long that is.
PATIENCE_S = 5.0
# How long the broker may take to tell of its queues when somebody waits for the statistics.
DEPTHS_WITHIN_S = 0.5
# Runs looked at in one look; how many of these may be runs that have not moved for QUIET_AFTER_S; how many at a time.
RUNS_A_LOOK = 200
QUIET_A_LOOK = 20
QUIET_AFTER_S = 60.0
AT_A_TIME = 8
# Where retries or failures come in, their queues may be new: so often the broker is asked which there are.
QUEUES_ANEW_S = 60.0
# GET /runs tells of no more than these, and each look asks for no more. Older ones that go on are known from when they
# were new; what was missed, or was there before us, is asked for now and then.
RUNS_KEPT = 1000
ASK_FOR_OPEN_EVERY_S = 60.0


class Seen(NamedTuple):
    """What a look found: the statistics, None while the ledger is away, and the runs that moved."""

    stats: StatsView | None
    moved: list[RunView]


@dataclass(slots=True)
class _Open:
    """A run that is not over: the last two snapshots of it, and when it was last seen to move."""

    now: Snapshot
    before: Snapshot | None
    moved_s: float


class Watch:
    """What there is to see, for all who listen, by `look`, and for all who ask. However many ask, the ledger is asked a
    few times a second.
    """

    def __init__(self, ledger: Ledger, broker: Broker) -> None:
        self._ledger = ledger
        self._broker = broker
        # What the last two looks saw.
        self._last: Snapshot | None = None
        self._before: Snapshot | None = None
        self._runs = _Runs(ledger)
        self._stats = Fresh(self._stats_now)
        self._list = Fresh(self._runs_now)
        self._most = 0  # how many runs those want who wait for the list
        self._away = False
        # When the broker was last asked which queues there are, and what had been retried and had failed by then.
        self._anew_s = float("-inf")
        self._anew_at: tuple[int, int] | None = None

    async def look(self) -> Seen:
        """Looks once: at the statistics, and at the runs that may have moved."""
        stats: StatsView | None = None
        moved: list[RunView] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                now, depths = await asyncio.gather(self._ledger.snapshot(), self._depths_anew())
                stats = stats_view(now, self._last, depths)
                self._before, self._last = self._last, now
                await self._runs.look(moved.append)
        except (TimeoutError, SmsimError) as error:
            if not self._away:
                log.warning(
                    "statistics_missing", extra={"reason": str(error) or "the ledger does not answer"}
                )
            self._away = True
        else:
            self._away = False
        return Seen(stats, moved)

    async def stats(self) -> StatsView:
        """The statistics now. Raises Unavailable."""
        return await self._stats.get()

    async def runs(self, limit: int) -> list[RunView]:
        """The newest runs as they are now, newest first, at most RUNS_KEPT. Raises Unavailable."""
        self._most = max(self._most, limit)
        return (await self._list.get())[:limit]

    def earlier(self, run: str) -> Snapshot | None:
        """A snapshot of a run that moves, a second or two old, to tell its rate by."""
        return self._runs.earlier(run)

    async def _stats_now(self) -> StatsView:
        async with _patience():
            now, depths = await asyncio.gather(self._ledger.snapshot(), self._depths(DEPTHS_WITHIN_S))
            return stats_view(now, self._before, depths)

    async def _runs_now(self) -> list[RunView]:
        most, self._most = self._most, 0
        async with _patience():
            return await self._runs.newest(most)

    async def _depths_anew(self) -> dict[str, int] | None:
        """As `_depths`, and looks for queues that may be new now and then."""
        # Each queue that is looked for and not there leaves two lines in RabbitMQ's log.
        before, now_s = self._last, time.monotonic()
        counted = (before.retried, before.failed) if before else (0, 0)
        anew = counted != self._anew_at and now_s - self._anew_s > QUEUES_ANEW_S
        depths = await self._depths(PATIENCE_S / 2, anew)
        if anew and depths is not None:
            self._anew_s, self._anew_at = now_s, counted
        return depths

    async def _depths(self, within_s: float, anew: bool = False) -> dict[str, int] | None:
        """None if the broker does not answer in time."""
        try:
            async with asyncio.timeout(within_s):
                return await self._broker.depths(anew)
        except (TimeoutError, SmsimError):
            return None


@contextlib.asynccontextmanager
async def _patience() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    except TimeoutError:
        raise Unavailable("the ledger does not answer") from None


class _Runs:
    """The newest runs of a ledger, each of which that is over is looked at once, and older ones that go on."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._names: list[str] = []
        self._asked_s = -math.inf
        self._open: dict[str, _Open] = {}
        self._over: set[str] = set()
        self._views: dict[str, RunView] = {}
        self._quiet: deque[str] = deque()
        # Runs that stood there when we came: of these, only what happens from now on is news.
        self._old: set[str] | None = None

    async def look(self, tell: Callable[[RunView], None]) -> None:
        """Looks at the runs that may have moved, and tells of those that did."""
        self._names = await self._that_may_move()
        self._old = set(self._names) if self._old is None else self._old
        self._forget_all_but(self._names)
        due = iter(self._due(time.monotonic()))
        looks = (self._look_at_each(due, tell) for _ in range(AT_A_TIME))
        # All to their end: a run that is noted as seen must have been told of.
        for error in await asyncio.gather(*looks, return_exceptions=True):
            if error is not None:
                raise error

    async def _that_may_move(self) -> list[str]:
        """The newest runs, oldest first; before them, where there are more, those that go on, in any order."""
        newest = await self._ledger.runs(RUNS_KEPT)
        if len(newest) < RUNS_KEPT:
            return newest
        older, now_s = set(self._open), time.monotonic()
        if now_s - self._asked_s >= ASK_FOR_OPEN_EVERY_S:
            older.update(await self._ledger.open_runs())
            self._asked_s = now_s
        return [*older.difference(newest), *newest]

    async def newest(self, limit: int) -> list[RunView]:
        """The newest runs as they are now, newest first. Those that are known to be over cost nothing."""
        names = await self._ledger.runs(min(limit, RUNS_KEPT))
        if len(names) < limit:
            self._over.intersection_update(names)  # a name that was forgotten may begin anew
        views = {name: self._views[name] for name in names if name in self._over and name in self._views}
        due = iter([name for name in names if name not in views])

        async def look() -> None:
            for run in due:
                with contextlib.suppress(UnknownRun):
                    views[run] = run_view(run, await self._ledger.snapshot(run), self.earlier(run))

        await asyncio.gather(*(look() for _ in range(AT_A_TIME)))
        return [views[name] for name in reversed(names) if name in views]

    def earlier(self, run: str) -> Snapshot | None:
        """The last snapshot but one of a run that is not over."""
        return self._open[run].before if run in self._open else None

    def _due(self, now_s: float) -> list[str]:
        """New runs, those that move, and some of the quiet ones in turn: newest first."""
        new = [name for name in reversed(self._names) if name not in self._open and name not in self._over]
        quiet = {name for name, it in self._open.items() if now_s - it.moved_s > QUIET_AFTER_S}
        lively = [name for name in reversed(self._names) if name in self._open and name not in quiet]
        self._quiet = deque(name for name in self._quiet if name in quiet)
        self._quiet.extend(quiet.difference(self._quiet))
        in_turn = [self._quiet[at] for at in range(min(QUIET_A_LOOK, len(self._quiet)))]
        self._quiet.rotate(-len(in_turn))
        return (new + lively)[: RUNS_A_LOOK - len(in_turn)] + in_turn

    async def _look_at_each(self, due: Iterable[str], tell: Callable[[RunView], None]) -> None:
        for run in due:
            try:
                now = await self._ledger.snapshot(run)
            except UnknownRun:
                self._open.pop(run, None)
                continue
            self._note(run, now, tell)

    def _note(self, run: str, now: Snapshot, tell: Callable[[RunView], None]) -> None:
        known = self._open.get(run)
        before = known.now if known else None
        view = run_view(run, now, before)
        self._views[run] = view
        moved = before is None or _counters(before) != _counters(now)
        if moved and not (before is None and self._old and run in self._old):
            tell(view)
        if view.over:
            self._open.pop(run, None)
            self._over.add(run)
        else:
            moved_s = time.monotonic() if moved else known.moved_s if known else 0.0
            self._open[run] = _Open(now, before, moved_s)

    def _forget_all_but(self, names: list[str]) -> None:
        alive = set(names)
        shown = set(names[-RUNS_KEPT:])
        self._over &= alive
        self._old = (self._old or set()) & alive
        for gone in self._open.keys() - alive:
            del self._open[gone]
        for gone in self._views.keys() - shown:
            del self._views[gone]


def _counters(it: Snapshot) -> tuple[int, ...]:
    return (it.total, *(getattr(it, counter.name) for counter in COUNTERS))
