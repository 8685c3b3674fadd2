"""The broker in memory, for embedded runs and tests: the same promises, within one process.

It really encodes batches, honours prefetch, and delivers again what was not acked. Queues hold at most
`capacity` messages; a first publish over that waits, as RabbitMQ makes publishers wait when its memory is short.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from common.broker.port import Delivery, Subscription
from common.broker.topology import Topology
from common.errors import PublishFailed, StaleDelivery
from common.messages import MAX_BODY_BYTES, Batch, Lane, encode_batch


@dataclass(slots=True)
class _Body:
    body: bytes
    messages: int
    redelivered: bool = False


@dataclass(slots=True, eq=False)
class MemoryDelivery:
    """One body in hand of a memory subscription."""

    _held: _Body
    _subscription: "MemorySubscription"
    stale: bool = False
    _settled: bool = False

    @property
    def body(self) -> bytes:
        return self._held.body

    @property
    def lane(self) -> Lane:
        return self._subscription.lane

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
        self._subscription.broker.rejected.append((self.body, reason))

    def _settle(self) -> None:
        if self._settled:
            raise RuntimeError("this delivery is settled already")
        if self.stale:
            raise StaleDelivery("the connection of this delivery is gone")
        self._settled = True
        self._subscription.forget(self)


@dataclass(slots=True, eq=False)
class MemorySubscription:
    """One subscriber of a lane."""

    broker: "MemoryBroker"
    lane: Lane
    prefetch: int
    _unacked: dict[MemoryDelivery, None] = field(default_factory=dict)
    _closed: bool = False

    async def take(self) -> list[Delivery]:
        queue = self.broker.queues[self.lane]
        while self._closed or not (queue.bodies and len(self._unacked) < self.prefetch):
            await queue.changed()
        taken: list[Delivery] = []
        while queue.bodies and len(self._unacked) < self.prefetch:
            delivery = MemoryDelivery(queue.pop(), self)
            self._unacked[delivery] = None
            taken.append(delivery)
        return taken

    def set_prefetch(self, prefetch: int) -> None:
        self.prefetch = max(1, prefetch)
        self.broker.queues[self.lane].wake()

    async def close(self) -> None:
        self._closed = True

    def forget(self, delivery: MemoryDelivery) -> None:
        """Takes a settled delivery off the unacked ones, which makes room for another."""
        del self._unacked[delivery]
        self.broker.queues[self.lane].wake()

    def put_back(self, bodies: list[_Body]) -> None:
        """Puts bodies back at the head of the queue, in their order, flagged as redelivered."""
        for held in reversed(bodies):
            held.redelivered = True
            self.broker.queues[self.lane].push_front(held)

    def disconnect(self) -> None:
        """What losing the connection does: every delivery in hand is stale, its body back in the queue."""
        lost = list(self._unacked)
        self._unacked.clear()
        for delivery in lost:
            delivery.stale = True
        self.put_back([delivery._held for delivery in lost])


class _Queue:
    """A FIFO of bodies. Readers wait for a change, bodies beyond the capacity wait for room."""

    def __init__(self, capacity: int) -> None:
        self.bodies: deque[_Body] = deque()
        self._messages = 0
        self._capacity = capacity
        self._outside: deque[tuple[_Body, asyncio.Future[None]]] = deque()
        self._readers: list[asyncio.Future[None]] = []

    def publish(self, held: _Body, confirm: asyncio.Future[None], at_once: bool) -> None:
        """Takes the body in and confirms it, now or when there is room."""
        if at_once:
            self._take_in(held, confirm)
        else:
            self._outside.append((held, confirm))
            self._let_in()

    def push_front(self, held: _Body) -> None:
        self.bodies.appendleft(held)
        self._messages += held.messages
        self.wake()

    def pop(self) -> _Body:
        held = self.bodies.popleft()
        self._messages -= held.messages
        self._let_in()
        return held

    def wake(self) -> None:
        """Lets every waiting reader look again."""
        readers, self._readers = self._readers, []
        for reader in readers:
            if not reader.done():
                reader.set_result(None)

    async def changed(self) -> None:
        reader = asyncio.get_running_loop().create_future()
        self._readers.append(reader)
        await reader

    def _let_in(self) -> None:
        while self._outside and self._messages < self._capacity:
            self._take_in(*self._outside.popleft())

    def _take_in(self, held: _Body, confirm: asyncio.Future[None]) -> None:
        self.bodies.append(held)
        self._messages += held.messages
        if not confirm.done():
            confirm.set_result(None)
        self.wake()


class MemoryBroker:
    """Queues in memory. `capacity` is in messages, for each lane."""

    def __init__(self, topology: Topology | None = None, capacity: int = 1_000_000) -> None:
        self._topology = topology or Topology("sms_queue")
        self.queues = {lane: _Queue(capacity) for lane in Lane}
        self.rejected: list[tuple[bytes, str]] = []
        self._highest: dict[str, int] = {}
        self._waiting_retry: dict[str, int] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._subscriptions: list[MemorySubscription] = []
        self._closed = False

    async def ready(self) -> None:
        return

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        body = encode_batch(batch)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closed or len(body) > MAX_BODY_BYTES:
            why = "the broker is closed" if self._closed else f"{len(body)} bytes, over {MAX_BODY_BYTES}"
            done.set_exception(PublishFailed(why))
            return done
        held = _Body(body, len(batch.messages))
        if after > 0:
            self._publish_later(held, lane, after)
            done.set_result(None)
        else:
            last, seen = batch.messages[-1].seq, self._highest.get(batch.run, -1)
            self._highest[batch.run] = max(last, seen)
            # A copy of what went through before gives room when it is taken in: its holder acks the original.
            self.queues[lane].publish(held, done, at_once=last <= seen)
        return done

    def publish_raw(self, body: bytes, lane: Lane) -> None:
        """Puts any body at all into a lane, as a stranger might."""
        self._put(_Body(body, 1), lane)

    async def subscribe(self, lane: Lane, prefetch: int) -> Subscription:
        subscription = MemorySubscription(self, lane, max(1, prefetch))
        self._subscriptions.append(subscription)
        return subscription

    async def depths(self) -> dict[str, int]:
        depths = {self._topology.lane(lane).name: len(queue.bodies) for lane, queue in self.queues.items()}
        return {**depths, **self._waiting_retry, self._topology.rejected.name: len(self.rejected)}

    def disconnect(self) -> None:
        """Cuts every connection at once; they are back at once too."""
        for subscription in self._subscriptions:
            subscription.disconnect()

    async def close(self) -> None:
        self._closed = True
        self.disconnect()
        for timer in self._timers:
            timer.cancel()

    def _put(self, held: _Body, lane: Lane) -> None:
        self.queues[lane].publish(held, asyncio.get_running_loop().create_future(), at_once=True)

    def _publish_later(self, held: _Body, lane: Lane, after: float) -> None:
        queue = self._topology.retry(lane, after)
        self._waiting_retry[queue.name] = self._waiting_retry.get(queue.name, 0) + 1

        def join() -> None:
            self._timers.discard(timer)
            self._waiting_retry[queue.name] -= 1
            self._put(held, lane)

        delay_s = queue.arguments["x-message-ttl"] / 1000
        timer = asyncio.get_running_loop().call_later(delay_s, join)
        self._timers.add(timer)
