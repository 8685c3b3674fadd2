"""Bodies that are no batch: counted, and moved to the rejected queue with the reason."""

import asyncio
import logging

from common.broker.port import Broker, Delivery
from common.errors import PublishFailed, StaleDelivery
from common.ledger.port import Ledger

log = logging.getLogger(__name__)

PAUSE_S = 0.25


class Rejects:
    """Moves bad bodies away. `in_hand` has the deliveries whose copy in the rejected queue is not confirmed yet."""

    def __init__(self, broker: Broker, ledger: Ledger) -> None:
        self._broker = broker
        self._ledger = ledger
        self.in_hand: set[Delivery] = set()

    async def move(self, poison: list[tuple[Delivery, str]]) -> None:
        """Counts some deliveries, each with its reason, and moves them, however long the broker takes."""
        self.in_hand.update(delivery for delivery, _ in poison)
        await self._ledger.reject(len(poison))
        await asyncio.gather(*(self._move_one(*one) for one in poison))

    async def _move_one(self, delivery: Delivery, reason: str) -> None:
        log.warning("body_rejected", extra={"reason": reason, "bytes": len(delivery.body)})
        while not delivery.stale:
            try:
                await self._broker.ready()
                await delivery.reject(reason)
                break
            except PublishFailed:
                await asyncio.sleep(PAUSE_S)
            except StaleDelivery:
                break
        self.in_hand.discard(delivery)
