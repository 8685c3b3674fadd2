"""What a broker promises. One contract suite, tests/contract/test_broker.py, holds every implementation to it.

- A publish that returned is kept until it is acked. One that raised may be repeated; it may then arrive twice.
- A delivery is given to one subscriber. Until it is acked it belongs to its connection; when that is lost or
  closed, it comes again, flagged `redelivered`.
- A lost connection is made again, with backoff, for as long as the broker is open. Deliveries of the old
  connection are stale from then on: acking one raises, and its body comes again.
- A subscriber is never given more unacked deliveries than its prefetch; after it was lowered, what is in hand stays.
"""

import asyncio
from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Protocol

from common.messages import Batch, Lane


class Shelf(StrEnum):
    """The queues in which bodies are kept for people: nobody consumes them until somebody asks for it."""

    FAILED = "failed"  # batches of messages that failed for good
    REJECTED = "rejected"  # bodies that are no batch


class Delivery(Protocol):
    """One body in hand, until it is acked, rejected or released; doing two of these raises RuntimeError."""

    @property
    def body(self) -> bytes:
        """The body as it was published, by whomever: it may be no batch at all."""

    @property
    def lane(self) -> Lane:
        """The lane it came through; of a failed batch the one it was kept with, of a rejected body bulk."""

    @property
    def reason(self) -> str:
        """Why a body on the rejected shelf was rejected; empty elsewhere, or where nobody said."""

    @property
    def redelivered(self) -> bool:
        """Whether it may have been delivered before."""

    @property
    def stale(self) -> bool:
        """Whether its connection is gone: it comes again, so drop it."""

    def ack(self) -> None:
        """Done with: the broker forgets it. Raises StaleDelivery."""

    def release(self) -> None:
        """Hands it back, to be delivered again. Raises StaleDelivery."""

    async def reject(self, reason: str) -> None:
        """Moves it to the rejected queue with the reason in the header `x-reason`, then acks it.

        Raises StaleDelivery, or PublishFailed, after which it is still in hand.
        """


class Subscription(Protocol):
    """The stream of one queue's deliveries."""

    async def take(self) -> list[Delivery]:
        """All deliveries that have arrived, at least one: waits for it. Lost connections pass unseen."""

    def set_prefetch(self, prefetch: int) -> None:
        """How many deliveries may be unacked at once; holds for those that come from now on."""

    async def close(self) -> None:
        """Ends the stream: `take` waits for good. What was taken can still be acked, the rest is for others."""


class Broker(Protocol):
    """Publishes batches and delivers them."""

    async def ready(self) -> None:
        """Returns once a publish can be tried: at once, or when the lost connection is back."""

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        """Publishes at once; the future is done when the broker has confirmed that it keeps the batch.

        Many may be awaited at the same time. `after` seconds from now is when the batch joins its lane, rounded
        up to the next power of two. Raises PublishFailed, from the future.
        """

    def keep(self, batch: Batch, lane: Lane) -> "asyncio.Future[None]":
        """Publishes a batch to the failed shelf, confirmed as by `publish`. Raises PublishFailed, from the future."""

    async def subscribe(self, queue: Lane | Shelf, prefetch: int) -> Subscription:
        """Starts the stream of the deliveries of a lane or a shelf."""

    def peek(self) -> AsyncGenerator[tuple[str, bytes], None]:
        """Every body that waits in the lanes and the retry queues, with the name of its queue; shelves left out.

        For use at rest: what moves meanwhile may be missed. The bodies stay. While the iteration lasts nobody else gets
        them; a moment after it ended, or was closed, they are all back in their queues, flagged as redelivered.
        Takes constant memory. Raises Unavailable.
        """

    async def consumers(self) -> int:
        """How many consumers the lanes have now, those of other processes included. Raises Unavailable."""

    async def depths(self, anew: bool = True) -> dict[str, int]:
        """How many bodies wait in each queue, unacked ones left out: lanes, shelves, and what retry queues there are.

        Retry queues, and the shelf of failed messages, are made when first used. Not `anew`: those of them that were
        not there when it was last asked may be left out. Whoever asks every second spares RabbitMQ's log by it, where
        each queue that is not there leaves two lines. Raises Unavailable.
        """

    async def close(self) -> None:
        """Closes the connections; what is unacked goes back to its queue."""
