"""A gateway's run for the messages that are posted one by one: it gives them their seqs."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from contextlib import AsyncExitStack

import msgspec

from common.errors import SmsimError, UnknownRun
from common.ledger.heartbeat import producer_heartbeat
from common.ledger.port import Ledger
from common.messages import Lane, new_run_id
from common.publishing.recipes import SINGLES, Recipe

log = logging.getLogger(__name__)

# A session's run ends after so many messages, or seconds, and another begins: the ledger lets go of runs, not of parts.
ROTATE_MESSAGES = 10_000_000
ROTATE_S = 86_400.0
NOTE_EVERY_S = 0.25
# Random bytes in the names of a gateway's runs: nobody looks whether they are taken.
UNIQUE_BYTES = 6


def recipe(source: str, count: int, lane: Lane = Lane.BULK, queue: str | None = None) -> str:
    """The recipe of a gateway's run, in the form that all recipes have. `queue` is where its messages go."""
    return msgspec.json.encode(
        Recipe(source=source, count=count, batch_size=1, lane=lane, queue=queue)
    ).decode()


class Session:
    """One run, open until `close`. Seqs are announced in order, and confirmed in whatever order."""

    def __init__(self, ledger: Ledger, gateway: str, queue: str | None = None) -> None:
        self.run = new_run_id(UNIQUE_BYTES)
        self.spoilt = False
        self._ledger = ledger
        self._gateway = gateway
        self._queue = queue
        self._began_s = time.monotonic()
        self._next = 0
        self._open: deque[tuple[int, asyncio.Event]] = deque()
        self._safe = self._noted = 0
        self._noting: asyncio.Task[None] | None = None
        self._heard = AsyncExitStack()

    async def begin(self) -> None:
        """Opens the run."""
        await self._ledger.begin(self.run, recipe(SINGLES, 0, queue=self._queue), 0, self._gateway)
        await self._heard.enter_async_context(producer_heartbeat(self._ledger, self.run))
        self._noting = asyncio.create_task(self._note_now_and_then())

    @property
    def old(self) -> bool:
        """Whether it is time for another: it is long or old enough, or `spoilt`, since an announcement failed."""
        return self.spoilt or self._next >= ROTATE_MESSAGES or time.monotonic() - self._began_s >= ROTATE_S

    def take(self, messages: int) -> tuple[int, asyncio.Event]:
        """The first of so many new seqs, and an event to be set once they are confirmed or settled.

        They are to be announced before those of the next call.
        """
        first, confirmed = self._next, asyncio.Event()
        self._next += messages
        self._open.append((self._next, confirmed))
        return first, confirmed

    async def close(self) -> None:
        """Waits until all that was taken is confirmed or settled; then nothing more of the run will come."""
        while self._open:
            await self._open[0][1].wait()
            self._advance()
        if self._noting is not None:
            self._noting.cancel()
        await self._heard.aclose()
        await self._ledger.confirm(self.run, self._safe)
        with contextlib.suppress(UnknownRun):  # Redis may have lost it
            await self._ledger.close_run(self.run)

    def _advance(self) -> None:
        while self._open and self._open[0][1].is_set():
            self._safe = self._open.popleft()[0]

    async def _note_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(NOTE_EVERY_S)
            self._advance()
            if self._safe > self._noted:
                self._noted = self._safe
                try:
                    await self._ledger.confirm(self.run, self._noted)
                except SmsimError as error:
                    log.warning("confirm_failed", extra={"run": self.run, "reason": str(error)})
