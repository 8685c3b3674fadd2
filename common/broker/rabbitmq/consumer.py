"""Consumes one lane or shelf over a channel of its own, with manual acks."""

import asyncio
import itertools
from typing import Any, Protocol

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from common.broker.port import Delivery, Shelf
from common.broker.rabbitmq.link import close_with_its_channel, declare, open_channel
from common.broker.topology import Queue
from common.errors import Refused, StaleDelivery
from common.messages import Lane

# The most that AMQP lets one consumer ask for; whoever wants more gets several.
LARGEST_PREFETCH = 65_535

LANE_HEADER = "x-lane"
REASON_HEADER = "x-reason"


class Acks:
    """The unacked deliveries of one channel. Gathers acks of one turn of the loop into few frames."""

    def __init__(self, channel: Channel) -> None:
        self.channel: Channel | None = channel
        # In the order in which they came. Not simply all tags: what comes for a consumer that is being cancelled,
        # pika gives back by itself.
        self._unacked: dict[int, None] = {}
        self._done: set[int] = set()
        self._scheduled = False

    def came(self, tag: int) -> None:
        """A delivery that wants an ack."""
        self._unacked[tag] = None

    def ack(self, tag: int) -> None:
        """Acks a delivery, at the end of this turn of the loop."""
        self._done.add(tag)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def release(self, tag: int) -> None:
        """Gives a delivery back to the queue."""
        del self._unacked[tag]
        if self.channel is not None and self.channel.is_open:
            self.channel.basic_nack(tag, multiple=False, requeue=True)

    def flush(self) -> None:
        """Sends the acks: one frame for all that are next in line, one for each of the others."""
        self._scheduled = False
        done, self._done = self._done, set()
        channel = self.channel
        if channel is None or not channel.is_open:
            return
        in_line = list(itertools.takewhile(done.__contains__, self._unacked))
        if in_line:
            channel.basic_ack(in_line[-1], multiple=True)
        for tag in done.difference(in_line):
            channel.basic_ack(tag)
        for tag in done:
            del self._unacked[tag]


class Rejects(Protocol):
    """What moves a body to the rejected queue."""

    async def publish_rejected(self, body: bytes, reason: str) -> None:
        """Publishes it there, confirmed. Raises PublishFailed."""


class RabbitDelivery:
    """One body in hand of a RabbitMQ subscription."""

    __slots__ = ("_acks", "_rejects", "_settled", "_tag", "body", "lane", "reason", "redelivered")

    def __init__(
        self, body: bytes, lane: Lane, reason: str, redelivered: bool, tag: int, acks: Acks, rejects: Rejects
    ) -> None:
        self.body = body
        self.lane = lane
        self.reason = reason
        self.redelivered = redelivered
        self._tag = tag
        self._acks = acks
        self._rejects = rejects
        self._settled = False

    @property
    def stale(self) -> bool:
        return self._acks.channel is None

    def ack(self) -> None:
        self._settle()
        self._acks.ack(self._tag)

    def release(self) -> None:
        self._settle()
        self._acks.release(self._tag)

    async def reject(self, reason: str) -> None:
        self._check()
        await self._rejects.publish_rejected(self.body, reason)
        self.ack()

    def _check(self) -> None:
        if self._settled:
            raise RuntimeError("this delivery is settled already")
        if self.stale:
            raise StaleDelivery("the connection of this delivery is gone")

    def _settle(self) -> None:
        self._check()
        self._settled = True


class RabbitSubscription:
    """One subscriber; `attach` gives it a new connection whenever the old one was lost."""

    def __init__(self, source: Lane | Shelf, queue: Queue, prefetch: int, rejects: Rejects) -> None:
        self._source = source
        self._lane = source if isinstance(source, Lane) else Lane.BULK
        self._queue = queue
        self._rejects = rejects
        self._prefetch = max(1, prefetch)
        self._allowed = 0  # what the consumers of the present channel may hold together
        self._acks: Acks | None = None
        self._consumer_tags: list[str] = []
        self._arrived: list[Delivery] = []
        self._arrival = asyncio.Event()
        self._closed = False
        self._refused: Refused | None = None

    async def attach(self, connection: AsyncioConnection) -> None:
        """Consumes over a new connection. Raises Unavailable."""
        if self._closed:
            return
        channel, closed = await open_channel(connection)
        await declare(channel, closed, self._queue)
        channel.add_on_close_callback(self._on_channel_closed)
        # RabbitMQ cancels a consumer whose queue was deleted, or whose node is gone: begin anew.
        channel.add_on_cancel_callback(lambda _: close_with_its_channel(channel))
        self._acks = Acks(channel)
        self._allowed = 0
        self._consumer_tags = []
        self._consume(channel, self._prefetch)

    async def take(self) -> list[Delivery]:
        while not self._arrived:
            if self._refused is not None:
                raise self._refused
            self._arrival.clear()
            await self._arrival.wait()
        taken, self._arrived = self._arrived, []
        return taken

    def set_prefetch(self, prefetch: int) -> None:
        """More is a further consumer beside those there are, since a new qos does nothing to a running one."""
        self._prefetch = max(1, prefetch)
        channel = self._acks.channel if self._acks else None
        if channel is None or not channel.is_open or self._closed or self._prefetch == self._allowed:
            return
        if self._prefetch < self._allowed:
            self._cancel(channel)
        self._consume(channel, self._prefetch - self._allowed)

    async def close(self) -> None:
        self._closed = True
        channel = self._acks.channel if self._acks else None
        if channel is not None and channel.is_open:
            self._cancel(channel)
        untaken, self._arrived = self._arrived, []
        for delivery in untaken:
            if not delivery.stale:
                delivery.release()

    def fail(self, refused: Refused) -> None:
        """No connection will come any more: whoever takes is told so."""
        self._refused = refused
        self._arrival.set()

    def flush(self) -> None:
        """Sends what acks are gathered, before the connection closes."""
        if self._acks is not None:
            self._acks.flush()

    def _consume(self, channel: Channel, prefetch: int) -> None:
        self._allowed += prefetch
        while prefetch > 0:
            channel.basic_qos(prefetch_count=min(prefetch, LARGEST_PREFETCH))
            tag = channel.basic_consume(self._queue.name, self._on_delivery)
            self._consumer_tags.append(tag)
            if isinstance(self._source, Lane):  # whose bodies need no headers
                channel.connection.direct[channel.channel_number, tag.encode()] = self._on_body
            prefetch -= LARGEST_PREFETCH

    def _cancel(self, channel: Channel) -> None:
        for tag in self._consumer_tags:
            channel.basic_cancel(tag)
            channel.connection.direct.pop((channel.channel_number, tag.encode()), None)
        self._consumer_tags = []
        self._allowed = 0

    def _on_delivery(
        self, _: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        lane, reason = _lane_and_reason(self._source, properties.headers)
        self._arrive(body, lane, reason, method.redelivered, method.delivery_tag)

    def _on_body(self, tag: int, redelivered: bool, body: bytes) -> None:
        """The same, for a lane."""
        self._arrive(body, self._lane, "", redelivered, tag)

    def _arrive(self, body: bytes, lane: Lane, reason: str, redelivered: bool, tag: int) -> None:
        acks = self._acks
        if acks is None:
            return
        delivery = RabbitDelivery(body, lane, reason, redelivered, tag, acks, self._rejects)
        acks.came(tag)
        if self._closed:
            delivery.release()
            return
        self._arrived.append(delivery)
        self._arrival.set()

    def _on_channel_closed(self, channel: Channel, _: BaseException) -> None:
        acks = self._acks
        if acks is None or acks.channel is not channel:
            return
        acks.channel = None  # every delivery of it is stale now
        self._acks = None
        self._arrived = [d for d in self._arrived if not d.stale]
        close_with_its_channel(channel)


def _lane_and_reason(source: Lane | Shelf, headers: dict[str, Any] | None) -> tuple[Lane, str]:
    """The lane that a body belongs to, and why it was rejected if it was."""
    if isinstance(source, Lane):
        return source, ""
    headers = headers or {}
    if source is Shelf.FAILED:
        return Lane.URGENT if headers.get(LANE_HEADER) == Lane.URGENT else Lane.BULK, ""
    if REASON_HEADER in headers:
        return Lane.BULK, str(headers[REASON_HEADER])
    # Dead-lettered by RabbitMQ itself. The latest death comes first; the others are ways out of retry queues.
    match headers.get("x-death"):
        case [{"reason": str(reason)}, *_]:
            return Lane.BULK, reason.replace("_", " ")
    return Lane.BULK, ""
