"""A producer lets the ledger hear of it while it waits, so that nobody takes its run for one that broke off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.ledger.port import PRODUCER_SILENCE_S, Ledger

EVERY_S = PRODUCER_SILENCE_S / 3


@asynccontextmanager
async def heard_of(ledger: Ledger, run: str) -> AsyncIterator[None]:
    """For as long as the block lasts the run's producer is heard of, also while RabbitMQ holds its publishes up."""

    async def speak() -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await ledger.confirm(run, 0)

    speaking = asyncio.create_task(speak())
    try:
        yield
    finally:
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)
