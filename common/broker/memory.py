"""The broker in memory, for embedded runs and tests: the same promises, within one process.

It really encodes batches, honours prefetch, and delivers again what was not acked. Queues hold at most
`capacity` messages; a first publish over that waits, as RabbitMQ makes publishers wait when its memory is short.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from common.broker.port import Delivery, Shelf, Subscription
from common.broker.topology import Topology
from common.errors import PublishFailed, StaleDelivery
from common.messages import MAX_BODY_BYTES, Batch, Lane, encode_batch


@dataclass(slots=True)
class _Body:
    body: bytes
    messages: int
    lane: Lane
    reason: str = ""
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
        self._subscription.broker.shelve(Shelf.REJECTED, _Body(self.body, 1, Lane.BULK, reason))

    def _settle(self) -> None:
        if self._settled:
            raise RuntimeError("this delivery is settled already")
        if self.stale:
            raise StaleDelivery("the connection of this delivery is gone")
        self._settled = True
        self._subscription.forget(self)


@dataclass(slots=True, eq=False)
class MemorySubscription:
    """One subscriber of a lane or a shelf."""

    broker: "MemoryBroker"
    source: Lane | Shelf
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
        """Takes a settled delivery off the unacked ones, which makes room for another."""
        del self._unacked[delivery]
        self.broker.queues[self.source].wake()

    def put_back(self, bodies: list[_Body]) -> None:
        """Puts bodies back at the head of the queue, in their order, flagged as redelivered."""
        for held in reversed(bodies):
            held.redelivered = True
            self.broker.queues[self.source].push_front(held)

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
    """Queues in memory. `capacity` is in messages, for each lane; shelves take in whatever comes."""

    def __init__(self, topology: Topology | None = None, capacity: int = 1_000_000) -> None:
        self._topology = topology or Topology("sms_queue")
        self.queues: dict[Lane | Shelf, _Queue] = {queue: _Queue(capacity) for queue in (*Lane, *Shelf)}
        self._highest: dict[str, int] = {}
        # Each body that waits for another attempt, with the name of the retry queue it would be in.
        self._retries: dict[asyncio.TimerHandle, tuple[str, _Body]] = {}
        self.subscriptions: list[MemorySubscription] = []
        self._closed = False

    @property
    def rejected(self) -> list[tuple[bytes, str]]:
        """The bodies that wait on the rejected shelf, each with the reason."""
        return [(held.body, held.reason) for held in self.queues[Shelf.REJECTED].bodies]

    @property
    def failed(self) -> list[tuple[bytes, Lane]]:
        """The bodies that wait on the failed shelf, each with its lane."""
        return [(held.body, held.lane) for held in self.queues[Shelf.FAILED].bodies]

    async def ready(self) -> None:
        return

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        held, done = self._encoded(batch, lane)
        if done.done():
            return done
        if after > 0:
            self._publish_later(held, after)
            done.set_result(None)
        else:
            last, seen = batch.messages[-1].seq, self._highest.get(batch.run, -1)
            self._highest[batch.run] = max(last, seen)
            # A copy of what went through before gives room when it is taken in: its holder acks the original.
            self.queues[lane].publish(held, done, at_once=last <= seen)
        return done

    def publish_raw(self, body: bytes, lane: Lane) -> None:
        """Puts any body at all into a lane, as a stranger might."""
        self._put(lane, _Body(body, 1, lane))

    def keep(self, batch: Batch, lane: Lane) -> "asyncio.Future[None]":
        held, done = self._encoded(batch, lane)
        if not done.done():
            self.shelve(Shelf.FAILED, held)
            done.set_result(None)
        return done

    def shelve(self, shelf: Shelf, held: _Body) -> None:
        """Puts a body on a shelf."""
        self._put(shelf, held)

    async def subscribe(self, queue: Lane | Shelf, prefetch: int) -> Subscription:
        subscription = MemorySubscription(self, queue, max(1, prefetch))
        self.subscriptions.append(subscription)
        return subscription

    async def peek(self) -> AsyncGenerator[tuple[str, bytes], None]:
        retries = list(self._retries.values())
        waiting = [
            (self._topology.lane(lane).name, held) for lane in Lane for held in self.queues[lane].bodies
        ]
        for _, held in waiting:
            held.redelivered = True
        for name, held in retries + waiting:
            yield name, held.body

    async def consumers(self) -> int:
        return sum(isinstance(s.source, Lane) and not s.closed for s in self.subscriptions)

    async def depths(self, anew: bool = True) -> dict[str, int]:
        depths = {self._topology.of(name).name: len(queue.bodies) for name, queue in self.queues.items()}
        return depths | Counter(name for name, _ in self._retries.values())

    def disconnect(self) -> None:
        """Cuts every connection at once; they are back at once too."""
        for subscription in self.subscriptions:
            subscription.disconnect()

    async def close(self) -> None:
        self._closed = True
        self.disconnect()
        for timer in self._retries:
            timer.cancel()

    def _encoded(self, batch: Batch, lane: Lane) -> tuple[_Body, "asyncio.Future[None]"]:
        """The body of a batch, and the future of its confirm, which has failed if it can't be published."""
        body = encode_batch(batch)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closed or len(body) > MAX_BODY_BYTES:
            why = "the broker is closed" if self._closed else f"{len(body)} bytes, over {MAX_BODY_BYTES}"
            done.set_exception(PublishFailed(why))
        return _Body(body, len(batch.messages), lane), done

    def _put(self, queue: Lane | Shelf, held: _Body) -> None:
        self.queues[queue].publish(held, asyncio.get_running_loop().create_future(), at_once=True)

    def _publish_later(self, held: _Body, after: float) -> None:
        queue = self._topology.retry(held.lane, after)

        def join() -> None:
            del self._retries[timer]
            self._put(held.lane, held)

        timer = asyncio.get_running_loop().call_later(queue.arguments["x-message-ttl"] / 1000, join)
        self._retries[timer] = queue.name, held
