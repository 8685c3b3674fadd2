"""When runs began, so that a provider knows the age of the run it sends for."""

import asyncio
import math

from common.ledger.port import Ledger

# Runs whose beginning is remembered, and for how long: a name that was forgotten may begin anew.
RUNS_REMEMBERED = 1000
REMEMBERED_S = 10.0


class Beginnings:
    """Asks the ledger now and then, and goes by our own clock between: that one never jumps."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._began: dict[str, tuple[float, float]] = {}

    async def of(self, run: str) -> float:
        """When a run began, by the loop's clock."""
        now_s = asyncio.get_running_loop().time()
        began_s, asked_s = self._began.get(run, (0.0, -math.inf))
        if now_s - asked_s > REMEMBERED_S:
            age_s = await self._ledger.age_s(run)
            now_s = asyncio.get_running_loop().time()
            began_s = now_s - age_s
            self._began.pop(run, None)
            if len(self._began) >= RUNS_REMEMBERED:
                del self._began[next(iter(self._began))]
            self._began[run] = (began_s, now_s)
        return began_s
