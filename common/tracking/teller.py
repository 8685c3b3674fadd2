"""Sends steps off in the background, many at a time."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from common.tracking.port import Step
from common.tracking.waiting import MOST_WAITING, Waiting

log = logging.getLogger(__name__)

# What comes within this time goes in one round trip, so that a step now and then doesn't cost one each.
GATHERING_S = 0.01
# Redis does nothing else while it takes these, for about 2 ms.
MOST_AT_ONCE = 500
# Beside 8 s of grace and 1.5 s for the last settles a sender has little left until Docker kills it; some 20,000 steps
# are told within this.
LAST_WORDS_S = 0.2


class Teller:
    """Gives steps to `send`, one group after another. While that takes long it keeps the newest; the loss is logged."""

    def __init__(
        self, send: Callable[[list[Step]], Awaitable[None]], most_waiting: int = MOST_WAITING
    ) -> None:
        self._send = send
        self._waiting = Waiting(most_waiting)
        self._all_sent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def tell(self, steps: Sequence[Step]) -> None:
        """Steps in their order; never waits."""
        if not steps:
            return
        self._waiting.add(steps)
        self._all_sent.clear()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Sends what waits, as far as that goes within LAST_WORDS_S; what is told after this is lost."""
        if self._task is None:
            return
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await self._all_sent.wait()
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._note_loss(len(self._waiting))

    async def _run(self) -> None:
        while True:
            await self._waiting.some()
            await asyncio.sleep(GATHERING_S)
            while steps := self._waiting.take(MOST_AT_ONCE):
                self._note_loss()
                await self._send(steps)
            self._all_sent.set()

    def _note_loss(self, more: int = 0) -> None:
        if lost := self._waiting.missed + more:
            log.warning("steps_untold", extra={"steps": lost, "reason": "more came than could be sent"})
            self._waiting.missed = 0
