"""Watches the ledger and the broker: the latest statistics and the latest view of each run."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from common.broker.port import Broker
from common.errors import SmsimError, Unavailable, UnknownRun
from common.ledger.port import Ledger, Snapshot
from gateway.views import RunView, StatsView, run_view, stats_view

log = logging.getLogger(__name__)

# How long a look may take: calls of the ledger wait until it answers, however long that is.
PATIENCE_S = 5.0
# Older statistics are not given out as the present ones.
STALE_S = 10.0
# Runs looked at in one look; how many of these may be runs that have not moved for QUIET_AFTER_S; how many at a time.
RUNS_A_LOOK = 200
QUIET_A_LOOK = 20
QUIET_AFTER_S = 60.0
AT_A_TIME = 8
# GET /runs tells of no more than these.
RUNS_KEPT = 1000


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
    """What `look` has seen. Many may read it at no cost to the ledger."""

    def __init__(self, ledger: Ledger, broker: Broker) -> None:
        self._ledger = ledger
        self._broker = broker
        self._stats: StatsView | None = None
        self._seen_s = 0.0
        self._first = asyncio.Event()
        self._before: Snapshot | None = None
        self._runs = _Runs(ledger)
        self._away = False

    async def look(self) -> Seen:
        """Looks once: at the statistics, and at the runs that may have moved."""
        stats: StatsView | None = None
        moved: list[RunView] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                now, depths = await asyncio.gather(self._ledger.snapshot(), self._depths())
                stats = self._stats = stats_view(now, self._before, depths)
                self._before, self._seen_s = now, time.monotonic()
                self._first.set()
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
        """The latest statistics. Raises Unavailable if these are old, or the first ones don't come."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._first.wait()
        except TimeoutError:
            raise Unavailable("the ledger does not answer") from None
        if self._stats is None or time.monotonic() - self._seen_s > STALE_S:
            raise Unavailable(f"the ledger has not answered for {STALE_S:g} s")
        return self._stats

    async def runs(self, limit: int) -> list[RunView]:
        """The latest view of each run, newest first, at most RUNS_KEPT. Raises Unavailable as `stats` does."""
        await self.stats()
        return self._runs.newest(limit)

    def earlier(self, run: str) -> Snapshot | None:
        """A snapshot of a run that moves, a second or two old, to tell its rate by."""
        return self._runs.earlier(run)

    async def _depths(self) -> dict[str, int] | None:
        try:
            async with asyncio.timeout(PATIENCE_S / 2):
                return await self._broker.depths()
        except (TimeoutError, SmsimError):
            return None


class _Runs:
    """The runs of a ledger, which may hold thousands that are over: each of these is looked at once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._names: list[str] = []
        self._open: dict[str, _Open] = {}
        self._over: set[str] = set()
        self._views: dict[str, RunView] = {}
        self._quiet: deque[str] = deque()
        # Runs that stood there when we came: of these, only what happens from now on is news.
        self._old: set[str] | None = None

    async def look(self, tell: Callable[[RunView], None]) -> None:
        """Looks at the runs that may have moved, and tells of those that did."""
        self._names = await self._ledger.runs()
        self._old = set(self._names) if self._old is None else self._old
        self._forget_all_but(self._names)
        due = iter(self._due(time.monotonic()))
        await asyncio.gather(*(self._look_at_each(due, tell) for _ in range(AT_A_TIME)))

    def newest(self, limit: int) -> list[RunView]:
        """The views of the newest runs."""
        views = (self._views.get(name) for name in reversed(self._names[-RUNS_KEPT:]))
        return [view for view in views if view is not None][:limit]

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
    return (it.published, it.sending, it.sent, it.failed, it.retried, it.ambiguous, it.total)
