"""Publishes a source as a run: announce in blocks, publish in a window of confirms, note how far it is safe."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

from common.broker.confirm import publish_until_confirmed
from common.broker.port import Broker
from common.errors import PublishFailed
from common.ledger.heartbeat import producer_heartbeat
from common.ledger.port import Ledger
from common.messages import Batch, Lane, fitting
from common.publishing.pace import Pace
from common.publishing.recipes import Stream

# Messages announced ahead of the publishes in one call.
ANNOUNCE_BLOCK = 20_000
# With a pace nothing is announced earlier than this before it is due: what is announced counts as queued.
ANNOUNCE_AHEAD_S = 1.0
# Unconfirmed messages at most, and AMQP messages at most.
WINDOW_MESSAGES = 32_768
WINDOW_BATCHES = 1_024
CONFIRM_EVERY_S = 0.25
YIELD_EVERY_MESSAGES = 512


@dataclass(slots=True)
class _Unconfirmed:
    batch: Batch
    beyond: int
    confirm: "asyncio.Future[None]"

    @property
    def failed(self) -> bool:
        """Whether the publish failed."""
        return self.confirm.done() and self.confirm.exception() is not None


class Producer:
    """Publishes one run at a time."""

    def __init__(self, broker: Broker, ledger: Ledger) -> None:
        self._broker = broker
        self._ledger = ledger
        self._window: deque[_Unconfirmed] = deque()
        self._on_progress: Callable[[int], None]
        # How far the run is confirmed, how far the ledger knows that, and since when.
        self._safe = self._noted = 0
        self._noted_at = 0.0

    async def publish(
        self,
        run: str,
        source: Stream,
        batch_size: int,
        lane: Lane,
        first: int = 0,
        on_progress: Callable[[int], None] = lambda _: None,
        pace: Pace | None = None,
        track: bool = False,
    ) -> None:
        """Publishes the messages from seq `first` on; returns when all are confirmed.

        A publish that fails is repeated for as long as it takes: the ledger counts each message once.
        `on_progress` hears how many are confirmed. With a `pace`, a batch goes out when its last message is due, else
        as soon as it can. `track`: each step of the messages is told (common/tracking).
        """
        self._on_progress = on_progress
        self._safe = self._noted = first
        self._noted_at = time.monotonic()
        async with producer_heartbeat(self._ledger, run):
            await self._publish(run, source, batch_size, lane, first, pace, track)

    async def _publish(
        self,
        run: str,
        source: Stream,
        batch_size: int,
        lane: Lane,
        first: int,
        pace: Pace | None,
        track: bool,
    ) -> None:
        announced, since_yield, ahead = first, 0, ANNOUNCE_BLOCK
        window = max(1, min(WINDOW_BATCHES, WINDOW_MESSAGES // batch_size))
        if pace is not None:
            ahead = min(ahead, math.ceil(ANNOUNCE_AHEAD_S * pace.rate_per_s))
            pace.start(first)
        try:
            for batch in _batches(run, source, batch_size, first, track):
                beyond = batch.messages[-1].seq + 1
                if beyond > announced:
                    block = min(max(ahead, beyond - announced), source.count - announced)
                    if pace is not None:
                        await self._soon(pace, run, announced + block, lane)
                    await self._ledger.announce(run, announced, block)
                    announced += block
                if pace is not None:
                    await self._due(pace, run, beyond, lane)
                self._window.append(_Unconfirmed(batch, beyond, self._broker.publish(batch, lane)))
                while len(self._window) >= window:
                    await self._oldest_confirmed(lane)
                since_yield += len(batch.messages)
                if since_yield >= YIELD_EVERY_MESSAGES:
                    since_yield = 0
                    await asyncio.sleep(0)
                if time.monotonic() - self._noted_at > CONFIRM_EVERY_S:
                    await self._note(run)
            while self._window:
                await self._oldest_confirmed(lane)
        finally:
            for unconfirmed in self._window:
                unconfirmed.confirm.cancel()
            self._window.clear()
        if self._safe > self._noted or source.count == first:
            await self._note(run)

    async def _soon(self, pace: Pace, run: str, beyond: int, lane: Lane) -> None:
        """Returns when the last message before `beyond` is due within ANNOUNCE_AHEAD_S.

        No batch is late for it: a block reaches no further than ANNOUNCE_AHEAD_S beyond the batch that it is for.
        """
        while (early_s := pace.early_s(beyond - 1) - ANNOUNCE_AHEAD_S) > 0:
            await self._pause(early_s, run, lane)

    async def _due(self, pace: Pace, run: str, beyond: int, lane: Lane) -> None:
        """Returns when the last message before `beyond` is due."""
        while pause_s := pace.pause_s(beyond - 1):
            await self._pause(pause_s, run, lane)

    async def _pause(self, pause_s: float, run: str, lane: Lane) -> None:
        """A pause of CONFIRM_EVERY_S at most; what is confirmed meanwhile is noted."""
        await asyncio.sleep(min(pause_s, CONFIRM_EVERY_S))
        while self._window and self._window[0].confirm.done():
            await self._oldest_confirmed(lane)
        if self._safe > self._noted and time.monotonic() - self._noted_at > CONFIRM_EVERY_S:
            await self._note(run)

    async def _note(self, run: str) -> None:
        """Tells the ledger how far the run is confirmed."""
        self._noted_at, self._noted = time.monotonic(), self._safe
        await self._ledger.confirm(run, self._safe)

    async def _oldest_confirmed(self, lane: Lane) -> None:
        """Waits until the oldest batch of the window is confirmed, and takes it off."""
        oldest = self._window[0]
        try:
            await oldest.confirm
        except PublishFailed:
            failed = [one for one in self._window if one.failed]
            again = [partial(self._publish_again, one, lane) for one in failed]
            await publish_until_confirmed(self._broker, *again)
        self._window.popleft()
        self._safe = oldest.beyond
        self._on_progress(self._safe)

    async def _publish_again(self, unconfirmed: _Unconfirmed, lane: Lane) -> None:
        unconfirmed.confirm = self._broker.publish(unconfirmed.batch, lane)
        await unconfirmed.confirm


def _batches(run: str, source: Stream, batch_size: int, first: int, track: bool) -> Iterator[Batch]:
    """The messages in batches, smaller than asked for where long texts would not fit a body."""
    messages = source.messages(first)
    while block := list(islice(messages, batch_size)):
        yield from fitting(Batch(run=run, track=track, messages=block))
