"""Bounded buffers of steps: between a tracker and its listeners, and between those who publish and Redis."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from common.tracking.port import Step

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes and the timing of the buffers.

    Attributes:
        buffered_steps: Most steps in a buffer: some seconds of the highest rate, and about 40 MB.
        published_at_once: Most steps in one call of Redis, which takes it about 2 ms.
        gather_s: Steps are gathered for this long, so that they share a call.
        close_s: How long `close` waits for buffered steps. Some 20,000 are published in this time, and little is left
            until Docker kills a sender.
    """

    buffered_steps: int = 100_000
    published_at_once: int = 500
    gather_s: float = 0.01
    close_s: float = 0.2


LIMITS = Limits()


class StepBuffer:
    """At most `most` steps; the oldest are dropped for newer ones.

    Attributes:
        dropped: How many steps were dropped, until the owner resets it.
    """

    def __init__(self, most: int = LIMITS.buffered_steps) -> None:
        self._steps: deque[Step] = deque(maxlen=most)
        self._most = most
        self._filled = asyncio.Event()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, steps: Sequence[Step]) -> None:
        """Adds steps, in their order; never waits."""
        self.dropped += max(0, len(self._steps) + len(steps) - self._most)
        self._steps.extend(steps)
        if steps:
            self._filled.set()

    async def filled(self) -> None:
        """Waits until there is a step."""
        await self._filled.wait()

    def take(self, most: int | None = None) -> list[Step]:
        """Removes the oldest steps, at most `most` of them if given."""
        count = len(self._steps) if most is None else min(most, len(self._steps))
        taken = [self._steps.popleft() for _ in range(count)]
        if not self._steps:
            self._filled.clear()
        return taken


class Listeners:
    """Gives steps to every listener. A slow one loses the oldest steps, and logs how many."""

    def __init__(self, buffered_steps: int = LIMITS.buffered_steps) -> None:
        self._most = buffered_steps
        self._buffers: set[StepBuffer] = set()

    def publish(self, steps: Sequence[Step]) -> None:
        """Gives steps to all present listeners."""
        for buffer in self._buffers:
            buffer.add(steps)

    async def listen(self) -> AsyncIterator[list[Step]]:
        """All steps from the first `anext` on, as many at a time as have arrived."""
        buffer = StepBuffer(self._most)
        self._buffers.add(buffer)
        try:
            while True:
                await buffer.filled()
                if buffer.dropped:
                    log.warning("steps_missed", extra={"steps": buffer.dropped, "reason": "a slow listener"})
                    buffer.dropped = 0
                yield buffer.take()
        finally:
            self._buffers.discard(buffer)


class BackgroundPublisher:
    """Passes steps to `send` in the background, some at a time; logs how many it had to drop."""

    def __init__(
        self,
        send: Callable[[list[Step]], Awaitable[None]],
        buffered_steps: int | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self._send = send
        self._limits = limits
        self._buffer = StepBuffer(buffered_steps or limits.buffered_steps)
        self._all_sent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def publish(self, steps: Sequence[Step]) -> None:
        """Publishes steps in their order, soon; never waits."""
        if not steps:
            return
        self._buffer.add(steps)
        self._all_sent.clear()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Publishes what is buffered, for at most `Limits.close_s`; later steps are lost."""
        if self._task is None:
            return
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.close_s):
                    await self._all_sent.wait()
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._log_loss(unsent=len(self._buffer))

    async def _run(self) -> None:
        while True:
            await self._buffer.filled()
            await asyncio.sleep(self._limits.gather_s)
            while steps := self._buffer.take(self._limits.published_at_once):
                self._log_loss()
                await self._send(steps)
            self._all_sent.set()

    def _log_loss(self, unsent: int = 0) -> None:
        if lost := self._buffer.dropped + unsent:
            log.warning("steps_lost", extra={"steps": lost, "reason": "more steps than could be published"})
            self._buffer.dropped = 0
