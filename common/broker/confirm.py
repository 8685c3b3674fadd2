"""Publishes until the broker has confirmed: the one loop that every publisher of this project uses.

And in smaller batches, where the broker refuses the size of one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from common.errors import PublishFailed, TooLarge
from common.messages import Batch, Message, fitting

log = logging.getLogger(__name__)

Publish = Callable[[], Awaitable[None]]
"""One attempt at one publish, such as `partial(broker.publish, batch, lane)`. PublishFailed: it was not confirmed."""


class Publisher(Protocol):
    """The part of a broker that is needed here."""

    async def ready(self) -> None:
        """Returns once a publish can be tried."""


async def publish_until_confirmed(broker: Publisher, *publishes: Publish, pause_s: float = 0.2) -> None:
    """Makes all the publishes at the same time, and repeats those that fail until the broker has confirmed every one.

    Before each attempt it waits for the broker to be ready; between attempts it pauses for `pause_s`. A repeated
    publish may arrive twice: the ledger counts each message once. A publish that is no longer needed returns without
    publishing.

    To give up after some time, cancel it (`asyncio.timeout`); what was not confirmed by then may have arrived. Any
    error but PublishFailed is raised, after the other publishes of the attempt have ended.
    """
    left = list(publishes)
    while left:
        await broker.ready()
        results = await asyncio.gather(*(publish() for publish in left), return_exceptions=True)
        failures = [result for result in results if result is not None]
        for failure in failures:
            if not isinstance(failure, PublishFailed):
                raise failure
        left = [publish for publish, result in zip(left, results, strict=True) if result is not None]
        if left:
            log.warning("publish_failed", extra={"publishes": len(left), "reason": str(failures[0])})
            await asyncio.sleep(pause_s)


async def publish_in_parts(publish: Callable[[Batch], Awaitable[None]], batch: Batch) -> list[Message]:
    """Publishes a batch, in smaller ones where it is over the broker's size limit. Raises PublishFailed.

    Returns the messages that are over the limit by themselves. They are not published.
    """
    try:
        await publish(batch)
    except TooLarge as error:
        if len(batch.messages) == 1:
            return batch.messages
        parts = fitting(batch, error.most_bytes)
        refused = await asyncio.gather(*(publish_in_parts(publish, part) for part in parts))
        return [message for messages in refused for message in messages]
    return []
