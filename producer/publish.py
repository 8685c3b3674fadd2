"""Publishes a source as a run: announce in blocks, publish in a window of confirms, note how far it is safe."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from common.broker.port import Broker
from common.errors import PublishFailed
from common.ledger.heard import heard_of
from common.ledger.port import Ledger
from common.messages import Batch, Lane, fitting
from producer.sources import Source

log = logging.getLogger(__name__)

# Messages announced ahead of the publishes in one call.
ANNOUNCE_BLOCK = 20_000
# Unconfirmed messages at most, and AMQP messages at most.
WINDOW_MESSAGES = 32_768
WINDOW_BATCHES = 1_024
CONFIRM_EVERY_S = 0.25
PAUSE_AFTER_FAILURE_S = 0.2
YIELD_EVERY_MESSAGES = 512


@dataclass(slots=True)
class _Unconfirmed:
    batch: Batch
    beyond: int
    confirm: "asyncio.Future[None]"


class Producer:
    """Publishes one run at a time."""

    def __init__(self, broker: Broker, ledger: Ledger) -> None:
        self._broker = broker
        self._ledger = ledger
        self._window: deque[_Unconfirmed] = deque()

    async def publish(
        self,
        run: str,
        source: Source,
        batch_size: int,
        lane: Lane,
        first: int = 0,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Publishes the messages from seq `first` on; returns when all are confirmed.

        A publish that fails is repeated for as long as it takes: the ledger counts each message once.
        `on_progress` hears how many are confirmed.
        """
        async with heard_of(self._ledger, run):
            await self._publish(run, source, batch_size, lane, first, on_progress)

    async def _publish(
        self,
        run: str,
        source: Source,
        batch_size: int,
        lane: Lane,
        first: int,
        on_progress: Callable[[int], None],
    ) -> None:
        announced = safe = noted = first
        window = max(1, min(WINDOW_BATCHES, WINDOW_MESSAGES // batch_size))
        noted_at, since_yield = time.monotonic(), 0
        try:
            for batch in _batches(run, source, batch_size, first):
                beyond = batch.messages[-1].seq + 1
                if beyond > announced:
                    block = min(max(ANNOUNCE_BLOCK, batch_size), source.count - announced)
                    await self._ledger.announce(run, announced, block)
                    announced += block
                self._window.append(_Unconfirmed(batch, beyond, self._broker.publish(batch, lane)))
                while len(self._window) >= window:
                    safe = await self._oldest_confirmed(lane)
                    on_progress(safe)
                since_yield += len(batch.messages)
                if since_yield >= YIELD_EVERY_MESSAGES:
                    since_yield = 0
                    await asyncio.sleep(0)
                if time.monotonic() - noted_at > CONFIRM_EVERY_S:
                    noted_at, noted = time.monotonic(), safe
                    await self._ledger.confirm(run, safe)
            while self._window:
                safe = await self._oldest_confirmed(lane)
                on_progress(safe)
        finally:
            for unconfirmed in self._window:
                unconfirmed.confirm.cancel()
            self._window.clear()
        if safe > noted or source.count == first:
            await self._ledger.confirm(run, safe)

    async def _oldest_confirmed(self, lane: Lane) -> int:
        """Waits until the oldest batch of the window is confirmed; gives the seq after its last."""
        while True:
            oldest = self._window[0]
            try:
                await oldest.confirm
            except PublishFailed as error:
                log.warning("publish_failed", extra={"reason": str(error), "run": oldest.batch.run})
                await self._publish_failed_again(lane)
            else:
                self._window.popleft()
                return oldest.beyond

    async def _publish_failed_again(self, lane: Lane) -> None:
        """Publishes again what has failed so far of the window, once the broker is ready."""
        await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
        await self._broker.ready()
        for unconfirmed in self._window:
            if unconfirmed.confirm.done() and unconfirmed.confirm.exception() is not None:
                unconfirmed.confirm = self._broker.publish(unconfirmed.batch, lane)


def _batches(run: str, source: Source, batch_size: int, first: int) -> Iterator[Batch]:
    """The messages in batches, smaller than asked for where long texts would not fit a body."""
    messages = source.messages(first)
    while block := list(islice(messages, batch_size)):
        yield from fitting(Batch(run=run, messages=block))
