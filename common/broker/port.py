"""What a broker promises. The contract suite, tests/contract/test_broker.py, runs against every implementation.

- A confirmed publish is kept until it is acked. A failed publish may be repeated; it may then arrive twice.
- A delivery is given to one subscriber and belongs to its connection until it is acked. When the connection is lost or
  closed, the body is delivered again, flagged `redelivered`.
- A lost connection is made again, with backoff, for as long as the broker is open. Deliveries of the old connection
  are stale from then on: acking one raises.
- A subscriber never has more unacked deliveries than its prefetch. A lower prefetch takes nothing back.
"""

import asyncio
from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Protocol

from common.messages import Batch, Lane


class ParkedQueue(StrEnum):
    """Queues whose bodies are kept for people: no sender consumes them.

    Attributes:
        FAILED: Batches of messages that failed and will not be tried again.
        REJECTED: Bodies that are no batch.
    """

    FAILED = "failed"
    REJECTED = "rejected"


class Delivery(Protocol):
    """One unacked body. It can be acked, rejected or released once; a second time raises RuntimeError."""

    @property
    def body(self) -> bytes:
        """The body as it was published. Anybody can publish to the queue, so it may be no batch."""

    @property
    def lane(self) -> Lane:
        """The lane it came through; of a parked batch the lane it was parked with, of a rejected body BULK."""

    @property
    def reason(self) -> str:
        """Why a body in the rejected queue was rejected; empty elsewhere, or where no reason is known."""

    @property
    def redelivered(self) -> bool:
        """Whether it may have been delivered before."""

    @property
    def stale(self) -> bool:
        """Whether its connection is gone: the body is delivered again, so drop this one."""

    def ack(self) -> None:
        """Removes the body from the broker. Raises StaleDelivery."""

    def release(self) -> None:
        """Gives the body back, to be delivered again. Raises StaleDelivery."""

    async def reject(self, reason: str) -> None:
        """Moves the body to the rejected queue, with the reason in the header `x-reason`, then acks it.

        Raises StaleDelivery; or PublishFailed, after which the delivery is still unacked.
        """


class Subscription(Protocol):
    """The deliveries of one queue."""

    async def take(self) -> list[Delivery]:
        """All deliveries that have arrived; waits for at least one. Continues after a lost connection.

        Raises Refused once the server has refused for a while to let this client in again.
        """

    def set_prefetch(self, prefetch: int) -> None:
        """The most unacked deliveries from now on."""

    async def close(self) -> None:
        """Ends the subscription: `take` waits forever. Deliveries that were taken can still be acked."""


class Broker(Protocol):
    """Publishes batches and delivers them.

    A connection that the server refuses to make again is tried for as long as the broker is open. A refusal that lasts
    is raised to those who wait: by `ready`, and by `Subscription.take`.
    """

    @property
    def refusal(self) -> str:
        """Why the server refuses a connection, once that lasts; empty otherwise."""

    async def ready(self) -> None:
        """Returns once a publish can be tried: at once, or when the lost connection is back. Raises Refused."""

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        """Publishes a batch. The future is done when the broker has confirmed it; it may raise PublishFailed.

        It raises Refused where to repeat it is no use, as TooLarge for a body that the server finds too large.

        Many may be awaited at the same time. The batch joins its lane `after` seconds from now, rounded up to the next
        power of two.
        """

    def park(self, batch: Batch, lane: Lane) -> "asyncio.Future[None]":
        """Publishes a batch to the failed queue, confirmed as by `publish`."""

    async def subscribe(self, queue: Lane | ParkedQueue, prefetch: int) -> Subscription:
        """Starts the deliveries of a lane or of a parked queue."""

    def peek(self) -> AsyncGenerator[tuple[str, bytes], None]:
        """Every body in the retry queues, the lanes and the rejected queue, with the name of its queue.

        For use at rest: bodies that move meanwhile may be missed. The bodies stay in the broker. During the iteration
        nobody else gets them; shortly after its end they are all back in their queues, flagged as redelivered.
        Takes constant memory. Raises Unavailable.
        """

    async def consumers(self) -> int:
        """How many consumers the lanes have, those of other processes included. Raises Unavailable."""

    async def depths(self, refresh: bool = True) -> dict[str, int]:
        """How many bodies wait in each queue, without the unacked ones. Raises Unavailable.

        Retry queues and the failed queue are declared when first used. Without `refresh`, those of them that did not
        exist at the last call are left out: RabbitMQ logs two lines for each queue that does not exist, which matters
        to a caller that asks every second.
        """

    async def close(self) -> None:
        """Closes the connections; unacked bodies go back to their queues."""
