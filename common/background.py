"""The parts of the gateway that work in the background: kept up while it serves, and surely ended after."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

from common.backoff import Backoff
from common.errors import LedgerLost, Refused, SmsimError, Unavailable

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
CANCEL_AGAIN_S = 1.0
REPEAT_EVERY_S = 1.0
# What is in hand when the gateway stops may take so much longer: what RabbitMQ and Redis need if they are there. With
# what the requests had before (common/web/server.py) it is less than the 10 s after which Docker kills.
LAST_WORDS_S = 2.0

T = TypeVar("T")


class Worker(Protocol):
    """Something that works in the background."""

    async def run(self) -> None:
        """Works until cancelled; may be called again after it ended."""


async def supervise(part: Worker) -> None:
    """Runs a part until cancelled. If it ends by itself, that is logged, and it begins again after a pause."""
    clock = asyncio.get_running_loop().time
    backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    while True:
        began_s = clock()
        about = {"part": type(part).__name__}
        try:
            await part.run()
            log.error("part_ended", extra=about)
        except Exception as error:  # nobody else would see it; without this part the gateway is lame
            known = isinstance(error, SmsimError)
            log.error(
                "part_failed",
                extra={**about, "reason": str(error) if known else type(error).__name__},
                exc_info=None if known else error,
            )
        if clock() - began_s > LONGEST_PAUSE_S:
            backoff.reset()
        await backoff.pause()


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels tasks until all are done: a cancellation may be lost in the Redis client (see common/redis.py),
    or what a task does last may take too long.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)


async def finish_within(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Waits for tasks, but no longer than LAST_WORDS_S; then ends them: another gateway goes on with what they had."""
    pending = set(tasks)
    if pending:
        _, pending = await asyncio.wait(pending, timeout=LAST_WORDS_S)
    if pending:
        log.warning("work_left", extra={"tasks": len(pending), "reason": "RabbitMQ or Redis does not answer"})
        await end(pending)


async def retry_forever(ask: Callable[[], Awaitable[T]]) -> T:
    """Asks until no server refuses any more."""
    while True:
        try:
            return await ask()
        except LedgerLost:
            raise
        except (Refused, Unavailable) as error:
            log.warning("asked_again", extra={"reason": str(error)})
            await asyncio.sleep(REPEAT_EVERY_S)
