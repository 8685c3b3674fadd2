"""A run under measurement: its begin, its end, and whether it adds up."""

import contextlib
import time
from collections.abc import Callable

from common.errors import UnknownRun
from common.ledger.port import Ledger
from common.ledger.values import Snapshot
from studies.process import Process, StudyFailed, until


async def begun(
    ledger: Ledger, run: str, *watched: Process, look: Callable[[], object] = lambda: None
) -> Snapshot:
    """The first snapshot of the run; `look` is called before each poll. Raises StudyFailed."""

    async def known() -> Snapshot | None:
        look()
        with contextlib.suppress(UnknownRun):
            return await ledger.snapshot(run)
        return None

    return await until(known, *watched, what=f"run {run} has begun", every_s=0.005)


async def settled(
    ledger: Ledger,
    run: str,
    messages: int,
    *watched: Process,
    look: Callable[[Snapshot], object] = lambda _: None,
    stuck_s: float = 60.0,
) -> Snapshot:
    """The snapshot once every message is sent or failed; `look` gets each snapshot on the way.

    Raises StudyFailed if a process fails, or if no message is settled for `stuck_s` seconds.
    """
    progress, moved_s = 0, time.monotonic()

    async def over() -> Snapshot | None:
        nonlocal progress, moved_s
        now = await ledger.snapshot(run)
        look(now)
        if now.settled > progress:
            progress, moved_s = now.settled, time.monotonic()
        if time.monotonic() - moved_s > stuck_s:
            raise StudyFailed(
                f"run {run}: {now.settled:,} of {messages:,} messages settled, and none for {stuck_s:g} s"
            )
        return now if now.settled >= messages else None

    return await until(over, *watched, what=f"run {run} is settled", deadline_s=float("inf"))


async def audit(ledger: Ledger, run: str, messages: int, waiting: int = 0) -> None:
    """Raises StudyFailed unless each message was sent or failed exactly once, and the queues are empty.

    Args:
        ledger: Keeps the run.
        run: Its id.
        messages: How many messages it has.
        waiting: How many AMQP messages the run's queues still hold.
    """
    now, counted = await ledger.snapshot(run), await ledger.recount(run)
    exact = now.published == now.settled == messages and now.sending == now.queued == 0
    proven = counted == {name: getattr(now, name) for name in counted}
    if not (exact and proven and waiting == 0):
        raise StudyFailed(
            f"run {run} does not add up: {now}, recount {counted}, {waiting} bodies in the queues"
        )


def elapsed_s(snapshot: Snapshot) -> float:
    """From the run's begin to its last settle, by the ledger's clock."""
    return (snapshot.last_settled_us - snapshot.started_us) / 1e6
