"""Polls the ledger: a JSON log line each interval, or a view on the terminal that redraws."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live

from common.errors import UnknownRun
from common.health import beat
from common.ledger.port import Reports
from common.ledger.values import Snapshot
from common.statistics import statistics
from monitor.view import picture

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of the view on the terminal, in seconds.

    Attributes:
        redraw_s: Interval at which it is redrawn.
        rate_over_s: The rate is that of this last time.
    """

    redraw_s: float = 0.25
    rate_over_s: float = 2.0


TIMING = Timing()


Complete = Callable[[Snapshot], Awaitable[Snapshot]]
"""Adds to a snapshot what the ledger does not know."""


async def as_it_is(now: Snapshot) -> Snapshot:
    """Adds nothing."""
    return now


async def log_statistics(
    ledger: Reports,
    run: str | None,
    interval_s: float,
    stop: asyncio.Event,
    *,
    on_snapshot: Callable[[Snapshot], None] = lambda _: None,
    complete: Complete = as_it_is,
) -> None:
    """Logs one JSON line each interval until `stop` is set, then a last one. `on_snapshot` gets each snapshot."""
    before: Snapshot | None = None
    while True:
        stopping = await _stopped_within(stop, interval_s if before else 0)
        now = await ledger.snapshot(run)
        if before is not None and (now.published < before.published or now.settled < before.settled):
            lost = {"published_before": before.published, "settled_before": before.settled}
            log.warning("ledger_lost_writes", extra={**lost, "advice": "run smsim audit"})
        on_snapshot(now)
        now = await complete(now)
        beat(interval_s)
        of_run = {"run": run} if run else {}
        log.info("statistics", extra={**of_run, **statistics(now, before).as_json()})
        before = now
        if stopping:
            return


async def show_live(
    ledger: Reports,
    run: str | None,
    stop: asyncio.Event,
    *,
    console: Console | None = None,
    timing: Timing = TIMING,
    complete: Complete = as_it_is,
) -> None:
    """Redraws the view until `stop` is set, then a last time."""
    title = f"run {run}" if run else "all runs"
    recent = _Recent(timing.rate_over_s)
    with Live(console=console, auto_refresh=False) as live:
        stopping = False
        while not stopping:
            stopping = await _stopped_within(stop, timing.redraw_s if recent.begun else 0)
            recent.begun = True
            with contextlib.suppress(UnknownRun):
                now = await complete(await ledger.snapshot(run))
                before = None if stopping else recent.before(now)
                live.update(picture(now, before, title), refresh=True)


class _Recent:
    """The snapshots of the last seconds.

    Attributes:
        begun: Whether a first snapshot was asked for.
    """

    def __init__(self, seconds: float) -> None:
        self.begun = False
        self._us = seconds * 1e6
        self._snapshots: deque[Snapshot] = deque()

    def before(self, now: Snapshot) -> Snapshot | None:
        """The snapshot to compute the rate from, if there is one."""
        before = self._snapshots[0] if self._snapshots else None
        self._snapshots.append(now)
        while len(self._snapshots) > 2 and now.now_us - self._snapshots[1].now_us >= self._us:
            self._snapshots.popleft()
            before = self._snapshots[0]
        return before


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True
