"""The broker in memory, for embedded runs and tests.

It encodes batches, honours prefetch, and redelivers what was not acked. A lane holds at most `capacity` messages: a
first publish beyond that waits, as RabbitMQ makes publishers wait when it is short of memory.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from common.broker.memory_queue import Body, MemoryQueue
from common.broker.port import Delivery, ParkedQueue, Subscription
from common.broker.topology import Topology
from common.errors import PublishFailed, StaleDelivery, TooLarge
from common.messages import MAX_BODY_BYTES, Batch, Lane, encode_batch


@dataclass(slots=True, eq=False)
class MemoryDelivery:
    """One unacked body of a subscription."""

    _held: Body
    _subscription: "MemorySubscription"
    stale: bool = False
    _settled: bool = False

    @property
    def body(self) -> bytes:
        return self._held.body

    @property
    def lane(self) -> Lane:
        return self._held.lane

    @property
    def reason(self) -> str:
        return self._held.reason

    @property
    def redelivered(self) -> bool:
        return self._held.redelivered

    def ack(self) -> None:
        self._settle()

    def release(self) -> None:
        self._settle()
        self._subscription.put_back([self._held])

    async def reject(self, reason: str) -> None:
        self._settle()
        rejected = Body(self.body, messages=1, lane=Lane.BULK, reason=reason)
        self._subscription.broker.put(ParkedQueue.REJECTED, rejected)

    def _settle(self) -> None:
        if self._settled:
            raise RuntimeError("this delivery is acked, rejected or released already")
        if self.stale:
            raise StaleDelivery("the connection of this delivery is gone")
        self._settled = True
        self._subscription.forget(self)


@dataclass(slots=True, eq=False)
class MemorySubscription:
    """One subscriber of a lane or a parked queue."""

    broker: "MemoryBroker"
    source: Lane | ParkedQueue
    prefetch: int
    closed: bool = False
    _unacked: dict[MemoryDelivery, None] = field(default_factory=dict)

    async def take(self) -> list[Delivery]:
        queue = self.broker.queues[self.source]
        while self.closed or not (queue.bodies and len(self._unacked) < self.prefetch):
            await queue.changed()
        taken: list[Delivery] = []
        while queue.bodies and len(self._unacked) < self.prefetch:
            delivery = MemoryDelivery(queue.pop(), self)
            self._unacked[delivery] = None
            taken.append(delivery)
        return taken

    @property
    def unacked(self) -> int:
        """How many deliveries are unacked."""
        return len(self._unacked)

    def set_prefetch(self, prefetch: int) -> None:
        self.prefetch = max(1, prefetch)
        self.broker.queues[self.source].wake()

    async def close(self) -> None:
        self.closed = True

    def forget(self, delivery: MemoryDelivery) -> None:
        """Removes a delivery from the unacked ones, which makes room for another."""
        del self._unacked[delivery]
        self.broker.queues[self.source].wake()

    def put_back(self, bodies: list[Body]) -> None:
        """Puts bodies back at the head of the queue, in their order, flagged as redelivered."""
        for body in reversed(bodies):
            body.redelivered = True
            self.broker.queues[self.source].push_front(body)

    def disconnect(self) -> None:
        """Loses the connection: every unacked delivery is stale, and its body is back in the queue."""
        lost = list(self._unacked)
        self._unacked.clear()
        for delivery in lost:
            delivery.stale = True
        self.put_back([delivery._held for delivery in lost])


class MemoryBroker:
    """Queues in memory. `capacity` is in messages, for each lane; parked queues have no limit.

    `most_bytes` is the size limit of a body.

    Attributes:
        refusal: Empty: it refuses nobody.
        queues: The lanes and the parked queues.
        subscriptions: All subscriptions, closed ones included.
    """

    refusal = ""

    def __init__(
        self,
        topology: Topology | None = None,
        capacity: int = 1_000_000,
        most_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._most_bytes = most_bytes
        self._topology = topology or Topology("sms_queue")
        self.queues: dict[Lane | ParkedQueue, MemoryQueue] = {
            queue: MemoryQueue(capacity) for queue in (*Lane, *ParkedQueue)
        }
        # The highest seq of each run that was published.
        self._highest: dict[str, int] = {}
        # The bodies that wait for another attempt, each with the name of its retry queue.
        self._retries: dict[asyncio.TimerHandle, tuple[str, Body]] = {}
        self.subscriptions: list[MemorySubscription] = []
        self._closed = False

    @property
    def rejected(self) -> list[tuple[bytes, str]]:
        """The bodies in the rejected queue, each with the reason."""
        return [(held.body, held.reason) for held in self.queues[ParkedQueue.REJECTED].bodies]

    @property
    def failed(self) -> list[tuple[bytes, Lane]]:
        """The bodies in the failed queue, each with its lane."""
        return [(held.body, held.lane) for held in self.queues[ParkedQueue.FAILED].bodies]

    async def ready(self) -> None:
        return

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        body, confirm = self._encoded(batch, lane)
        if confirm.done():
            return confirm
        if after > 0:
            self._publish_later(body, after)
            confirm.set_result(None)
        else:
            last, highest = batch.messages[-1].seq, self._highest.get(batch.run, -1)
            self._highest[batch.run] = max(last, highest)
            # A copy is taken in at once: once it is confirmed, the sender acks the original, which makes room.
            self.queues[lane].publish(body, confirm, at_once=last <= highest)
        return confirm

    def publish_raw(self, body: bytes, lane: Lane) -> None:
        """Puts any body into a lane, as another program could."""
        self.put(lane, Body(body, messages=1, lane=lane))

    def park(self, batch: Batch, lane: Lane) -> "asyncio.Future[None]":
        body, confirm = self._encoded(batch, lane)
        if not confirm.done():
            self.put(ParkedQueue.FAILED, body)
            confirm.set_result(None)
        return confirm

    def put(self, queue: Lane | ParkedQueue, body: Body) -> None:
        """Puts a body into a queue, whether there is room or not."""
        self.queues[queue].publish(body, asyncio.get_running_loop().create_future(), at_once=True)

    async def subscribe(self, queue: Lane | ParkedQueue, prefetch: int) -> Subscription:
        subscription = MemorySubscription(self, queue, max(1, prefetch))
        self.subscriptions.append(subscription)
        return subscription

    async def peek(self) -> AsyncGenerator[tuple[str, bytes], None]:
        retries = list(self._retries.values())
        waiting = [
            (self._topology.of(queue).name, body)
            for queue in (*Lane, ParkedQueue.REJECTED)
            for body in self.queues[queue].bodies
        ]
        for _, body in waiting:
            body.redelivered = True
        for name, body in retries + waiting:
            yield name, body.body

    async def consumers(self) -> int:
        return sum(isinstance(s.source, Lane) and not s.closed for s in self.subscriptions)

    async def depths(self, refresh: bool = True) -> dict[str, int]:
        depths = {self._topology.of(name).name: len(queue.bodies) for name, queue in self.queues.items()}
        return depths | Counter(name for name, _ in self._retries.values())

    def disconnect(self) -> None:
        """Loses every connection. The new ones are there at once."""
        for subscription in self.subscriptions:
            subscription.disconnect()

    async def close(self) -> None:
        self._closed = True
        self.disconnect()
        for timer in self._retries:
            timer.cancel()

    def _encoded(self, batch: Batch, lane: Lane) -> tuple[Body, "asyncio.Future[None]"]:
        """The body of a batch, and the future of its confirm, which has failed if it can't be published."""
        body = encode_batch(batch)
        confirm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closed:
            confirm.set_exception(PublishFailed("the broker is closed"))
        elif len(body) > self._most_bytes:
            confirm.set_exception(
                TooLarge(f"a body of {len(body)} bytes is over {self._most_bytes}", self._most_bytes)
            )
        return Body(body, messages=len(batch.messages), lane=lane), confirm

    def _publish_later(self, body: Body, after: float) -> None:
        queue = self._topology.retry(body.lane, after)

        def join() -> None:
            del self._retries[timer]
            self.put(body.lane, body)

        timer = asyncio.get_running_loop().call_later(queue.arguments["x-message-ttl"] / 1000, join)
        self._retries[timer] = queue.name, body
