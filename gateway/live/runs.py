"""Which runs changed: compares snapshots of the open ones."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from common.counters import COUNTERS
from common.errors import UnknownRun
from common.ledger.port import Ledger
from common.ledger.values import Snapshot
from gateway.api.views import RunView, run_view
from gateway.live.limits import LiveLimits


@dataclass(slots=True)
class _OpenRun:
    """An open run.

    Attributes:
        now: Its last snapshot.
        before: The one before that.
    """

    now: Snapshot
    before: Snapshot | None


class RunsPoller:
    """Reads the open runs of a ledger, a bounded number a poll, and each run once more when it is over."""

    def __init__(self, ledger: Ledger, limits: LiveLimits) -> None:
        self._ledger = ledger
        self._limits = limits
        self._known: set[str] | None = None
        self._open: dict[str, _OpenRun] = {}
        self._over: dict[str, RunView] = {}
        self._next = 0

    async def poll(self, report: Callable[[RunView], None]) -> None:
        """Reports the runs that changed. Runs that exist at the first poll are not reported."""
        newest = await self._ledger.runs(self._limits.runs_kept)
        still_open = await self._ledger.open_runs()
        alive = {*newest, *still_open}
        known = self._known = alive if self._known is None else self._known & alive
        self._forget_views(alive, still_open)

        async def compare(run: str) -> None:
            await self._compare(run, known, report)

        new = [run for run in reversed(newest) if run not in known]
        ended = self._open.keys() - still_open
        await self._for_each([*new, *ended, *self._in_turn(still_open, new)], compare)

    async def newest(self, limit: int) -> list[RunView]:
        """The newest runs as they are now, newest first. Those that are over are read once."""
        names = await self._ledger.runs(min(limit, self._limits.runs_kept))
        views = dict(self._over)

        async def read(run: str) -> None:
            with contextlib.suppress(UnknownRun):
                view = run_view(run, await self._ledger.snapshot(run), self.earlier(run))
                views[run] = view
                if view.over:
                    self._over[run] = view

        await self._for_each([run for run in names if run not in views], read)
        return [views[run] for run in reversed(names) if run in views]

    def earlier(self, run: str) -> Snapshot | None:
        """The last snapshot but one of an open run."""
        return self._open[run].before if run in self._open else None

    async def _compare(self, run: str, known: set[str], report: Callable[[RunView], None]) -> None:
        try:
            now = await self._ledger.snapshot(run)
        except UnknownRun:
            self._open.pop(run, None)
            return
        last = self._open[run].now if run in self._open else None
        view = run_view(run, now, last)
        if run not in known or (last is not None and _counters(last) != _counters(now)):
            report(view)
            known.add(run)
        if view.over:
            self._open.pop(run, None)
        else:
            self._open[run] = _OpenRun(now, last)

    def _forget_views(self, alive: set[str], still_open: list[str]) -> None:
        """Forgets the views of runs that are gone, or whose name was used again."""
        over = self._over.keys() & alive - set(still_open)
        self._over = {run: self._over[run] for run in over}

    def _in_turn(self, still_open: list[str], new: list[str]) -> list[str]:
        """The open runs; where there are many of them, some in turn."""
        others = [run for run in still_open if run not in set(new)]
        if len(others) <= self._limits.runs_a_poll:
            return others
        begin = self._next % len(others)
        self._next = begin + self._limits.runs_a_poll
        return (others + others)[begin : begin + self._limits.runs_a_poll]

    async def _for_each(self, runs: Iterable[str], read: Callable[[str], Awaitable[None]]) -> None:
        """Reads several at a time, all of them, then raises the first error."""
        due = iter(runs)

        async def work() -> None:
            for run in due:
                await read(run)

        workers = (work() for _ in range(self._limits.reads_at_once))
        for error in await asyncio.gather(*workers, return_exceptions=True):
            if error is not None:
                raise error


def _counters(it: Snapshot) -> tuple[int, ...]:
    return (it.total, *(getattr(it, counter.name) for counter in COUNTERS))
