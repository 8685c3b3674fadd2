"""Whoever listens to steps in this process, each at a pace of its own."""

import logging
from collections.abc import AsyncIterator, Sequence

from common.tracking.port import Step
from common.tracking.waiting import MOST_WAITING, Waiting

log = logging.getLogger(__name__)


class Listeners:
    """Hands steps to every listener. One that takes too long misses the oldest, and logs how many."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._most = most_waiting
        self._all: set[Waiting] = set()

    def tell(self, steps: Sequence[Step]) -> None:
        """To all who listen now."""
        for waiting in self._all:
            waiting.add(steps)

    async def listen(self) -> AsyncIterator[list[Step]]:
        """What is told from now on, as much at a time as has come; begins when first awaited, ends never."""
        waiting = Waiting(self._most)
        self._all.add(waiting)
        try:
            while True:
                await waiting.some()
                if waiting.missed:
                    log.warning(
                        "steps_missed", extra={"steps": waiting.missed, "reason": "a listener takes too long"}
                    )
                    waiting.missed = 0
                yield waiting.take()
        finally:
            self._all.discard(waiting)
