"""What a broker promises. One contract suite, tests/contract/test_broker.py, holds every implementation to it.

- A publish that returned is kept until it is acked. One that raised may be repeated; it may then arrive twice.
- A delivery is given to one subscriber. Until it is acked it belongs to its connection; when that is lost or
  closed, it comes again, flagged `redelivered`.
- A lost connection is made again, with backoff, for as long as the broker is open. Deliveries of the old
  connection are stale from then on: acking one raises, and its body comes again.
- A subscriber is never given more unacked deliveries than its prefetch; after it was lowered, what is in hand stays.
"""

import asyncio
from typing import Protocol

from common.messages import Batch, Lane


class Delivery(Protocol):
    """One body in hand, until it is acked, rejected or released; doing two of these raises RuntimeError."""

    @property
    def body(self) -> bytes:
        """The body as it was published, by whomever: it may be no batch at all."""

    @property
    def lane(self) -> Lane:
        """The lane it came through."""

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
    """The stream of one lane's deliveries."""

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

    async def subscribe(self, lane: Lane, prefetch: int) -> Subscription:
        """Starts the stream of a lane's deliveries."""

    async def depths(self) -> dict[str, int]:
        """How many bodies wait in each queue, unacked ones left out."""

    async def close(self) -> None:
        """Closes the connections; what is unacked goes back to its queue."""
