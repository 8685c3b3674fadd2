"""Work in the background of a service: supervised while it serves, and ended with it."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from common.backoff import Backoff
from common.errors import SmsimError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of supervised work, in seconds.

    Attributes:
        first_pause_s: Pause before a worker that ended is started again; the next pauses double.
        longest_pause_s: Longest pause. A worker that runs for longer than this begins with the first one again.
        cancel_again_s: Interval at which a task is cancelled again until it ends.
    """

    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0
    cancel_again_s: float = 1.0


TIMING = Timing()


class Worker(Protocol):
    """Something that works in the background."""

    async def run(self) -> None:
        """Works until cancelled. It may be called again after it has ended."""


async def supervise(worker: Worker, timing: Timing = TIMING) -> None:
    """Runs a worker until cancelled. If it ends, logs that and starts it again after a pause."""
    clock = asyncio.get_running_loop().time
    backoff = Backoff(timing.first_pause_s, timing.longest_pause_s)
    about = {"part": type(worker).__name__}
    while True:
        began_s = clock()
        try:
            await worker.run()
            log.error("part_ended", extra=about)
        except Exception as error:  # the service needs each of its workers, and nobody awaits them
            known = isinstance(error, SmsimError)
            reason = str(error) if known else type(error).__name__
            log.error("part_failed", extra={**about, "reason": reason}, exc_info=None if known else error)
        if clock() - began_s > timing.longest_pause_s:
            backoff.reset()
        await backoff.pause()


async def end(tasks: Iterable[asyncio.Task[Any]], timing: Timing = TIMING) -> None:
    """Cancels tasks until all have ended: the Redis client may lose a cancellation (common/redis.py)."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=timing.cancel_again_s)
