"""A producer lets the ledger hear of it while it waits, so that nobody takes its run for one that broke off."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.errors import SmsimError
from common.ledger.port import PRODUCER_SILENCE_S, Ledger

log = logging.getLogger(__name__)

EVERY_S = PRODUCER_SILENCE_S / 3


@asynccontextmanager
async def heard_of(ledger: Ledger, run: str) -> AsyncIterator[None]:
    """For as long as the block lasts the run's producer is heard of, also while RabbitMQ holds its publishes up."""

    async def speak() -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await ledger.confirm(run, 0)
            except SmsimError as error:
                # The next one may be answered, and by silence the run would be free for others.
                log.warning("producer_unheard", extra={"run": run, "reason": str(error)})

    speaking = asyncio.create_task(speak())
    try:
        yield
    finally:
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)
