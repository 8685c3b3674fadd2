"""Polls the ledger: a JSON log line each interval, or a view on the terminal that redraws."""

import asyncio
import logging
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from common.errors import UnknownRun
from common.health import beat
from common.ledger.port import Ledger
from common.ledger.values import Snapshot
from common.statistics import statistics
from monitor.view import picture

log = logging.getLogger(__name__)

REDRAW_S = 0.25
RATE_OVER_S = 2.0


async def log_statistics(
    ledger: Ledger,
    run: str | None,
    interval_s: float,
    stop: asyncio.Event,
    tell: Callable[[Snapshot], None] = lambda _: None,
) -> None:
    """Logs one JSON line an interval until told to stop, and a last one then; tells each snapshot."""
    before: Snapshot | None = None
    while True:
        stopping = await _stopped_within(stop, interval_s if before else 0)
        now = await ledger.snapshot(run)
        tell(now)
        beat(interval_s)
        log.info("statistics", extra={**({"run": run} if run else {}), **statistics(now, before).as_json()})
        before = now
        if stopping:
            return


async def show_live(
    ledger: Ledger,
    run: str | None,
    stop: asyncio.Event,
    console: Console | None = None,
) -> None:
    """Redraws the view until told to stop, and a last time then."""
    title = f"run {run}" if run else "all runs"
    recent: list[Snapshot] = []
    with Live(console=console, auto_refresh=False) as live:
        stopping = False
        while True:
            try:
                recent.append(await ledger.snapshot(run))
            except UnknownRun:
                if stopping:
                    return
                stopping = await _stopped_within(stop, REDRAW_S)
                continue
            now = recent[-1]
            while len(recent) > 2 and now.now_us - recent[1].now_us >= RATE_OVER_S * 1e6:
                recent.pop(0)
            live.update(picture(now, None if stopping or len(recent) < 2 else recent[0], title), refresh=True)
            if stopping:
                return
            stopping = await _stopped_within(stop, REDRAW_S)


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True
