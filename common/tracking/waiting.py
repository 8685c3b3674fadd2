"""Steps that wait for somebody to take them: a bounded buffer, in which the newest stay."""

import asyncio
from collections import deque
from collections.abc import Sequence

from common.tracking.port import Step

# Some seconds of the most that is told, and about 40 MB.
MOST_WAITING = 100_000


class Waiting:
    """At most `most` steps; with more, the oldest go. `missed` counts these, until somebody sets it back."""

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        self._steps: deque[Step] = deque(maxlen=most)
        self._some = asyncio.Event()
        self.missed = 0

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, steps: Sequence[Step]) -> None:
        """Steps in their order; never waits."""
        self.missed += max(0, len(self._steps) + len(steps) - self._most)
        self._steps.extend(steps)
        if steps:
            self._some.set()

    async def some(self) -> None:
        """Waits until there is a step to take."""
        await self._some.wait()

    def take(self, most: int = MOST_WAITING) -> list[Step]:
        """The oldest steps, at most so many."""
        taken = [self._steps.popleft() for _ in range(min(most, len(self._steps)))]
        if not self._steps:
            self._some.clear()
        return taken
