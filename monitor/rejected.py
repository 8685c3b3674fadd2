"""Asks RabbitMQ how many bodies are in the rejected queue: its policies put bodies there that nobody counts."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Self

import msgspec

from common.broker.rabbitmq import RabbitBroker
from common.errors import Refused, Unavailable
from common.ledger.values import Snapshot
from common.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """When RabbitMQ is asked, in seconds.

    Attributes:
        connect_s: How long to connect may take.
        answer_s: How long an answer may take.
        every_s: Shortest time between two questions.
        missing_s: The same while there is no such queue, or no RabbitMQ: RabbitMQ logs each question for a queue that
            it does not have.
    """

    connect_s: float = 3.0
    answer_s: float = 1.0
    every_s: float = 1.0
    missing_s: float = 60.0


TIMING = Timing()


class RejectedQueue:
    """Completes the statistics of all runs by what is in the rejected queue. Without RabbitMQ they go on as they are.

    Closes its connection on leaving an `async with` block.
    """

    def __init__(self, settings: Settings, timing: Timing = TIMING) -> None:
        self._settings = settings
        self._timing = timing
        self._broker: RabbitBroker | None = None
        self._bodies = 0
        self._is_unknown = False
        self._ask_again_s = float("-inf")

    async def complete(self, now: Snapshot) -> Snapshot:
        """The snapshot, with the rejected bodies that were counted or those in the queue, whichever are more."""
        clock = asyncio.get_running_loop().time
        if clock() >= self._ask_again_s:
            found = await self._ask()
            self._bodies = found or 0
            self._ask_again_s = clock() + (self._timing.missing_s if found is None else self._timing.every_s)
        return msgspec.structs.replace(now, rejected=max(now.rejected, self._bodies))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._broker is not None:
            await self._broker.close()

    async def _ask(self) -> int | None:
        """The bodies in the queue; None if that can't be known now."""
        try:
            if self._broker is None:
                self._broker = await self._connect()
            async with asyncio.timeout(self._timing.answer_s):
                found = await self._broker.rejected()
        except (TimeoutError, Unavailable, Refused) as error:
            if not self._is_unknown:
                log.warning("rejected_queue_unknown", extra={"reason": str(error) or "no answer"})
            self._is_unknown = True
            return None
        self._is_unknown = False
        return found

    async def _connect(self) -> RabbitBroker:
        broker = RabbitBroker(self._settings, "monitor", declares=False)
        try:
            async with asyncio.timeout(self._timing.connect_s):
                await broker.start(self._timing.connect_s)
        except BaseException:
            await broker.close()
            raise
        return broker
