"""The heartbeat of a producer: it keeps a run its own while the producer waits for the broker."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.errors import SmsimError
from common.ledger.port import TIMING, Publications

log = logging.getLogger(__name__)


@asynccontextmanager
async def producer_heartbeat(
    ledger: Publications, run: str, every_s: float = TIMING.producer_silence_s / 3
) -> AsyncIterator[None]:
    """While the block runs, the ledger gets a heartbeat of the run's producer every `every_s` seconds."""
    beating = asyncio.create_task(_beat(ledger, run, every_s))
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


async def _beat(ledger: Publications, run: str, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        try:
            await ledger.confirm(run, 0)  # raises no confirmed seq, but notes the time
        except SmsimError as error:
            # The next heartbeat may succeed; to stop would let another producer take the run.
            log.warning("producer_heartbeat_failed", extra={"run": run, "reason": str(error)})
