"""Consumes one lane or parked queue over a channel of its own, with manual acks."""

import asyncio

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from common.broker.port import Delivery, ParkedQueue
from common.broker.rabbitmq.deliveries import Acks, RabbitDelivery, Rejects, lane_of, reason_of
from common.broker.rabbitmq.opening import close_with_its_channel, open_channel
from common.broker.rabbitmq.queues import declare
from common.broker.topology import Queue
from common.errors import Refused
from common.messages import Lane

# The most that AMQP allows one consumer. A larger prefetch takes several consumers.
LARGEST_PREFETCH = 65_535


class RabbitSubscription:
    """One subscriber. `attach` moves it to a new connection whenever the old one was lost."""

    def __init__(
        self,
        source: Lane | ParkedQueue,
        queue: Queue,
        prefetch: int,
        rejects: Rejects,
        largest_prefetch: int = LARGEST_PREFETCH,
    ) -> None:
        self._source = source
        self._queue = queue
        self._rejects = rejects
        self._prefetch = max(1, prefetch)
        self._largest_prefetch = largest_prefetch
        self._consumed = 0  # the prefetch of all consumers of the present channel
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
        over = await open_channel(connection)
        await declare(over, self._queue)
        if self._closed:  # in the meantime
            over.close()
            return
        over.channel.add_on_close_callback(self._on_channel_closed)
        # RabbitMQ cancels a consumer whose queue was deleted or whose node is gone: connect again.
        over.channel.add_on_cancel_callback(lambda _: close_with_its_channel(over.channel))
        self._acks = Acks(over.channel)
        self._consumed = 0
        self._consumer_tags = []
        self._consume(over.channel, self._prefetch)

    async def take(self) -> list[Delivery]:
        while not self._arrived:
            if self._refused is not None:
                raise self._refused
            self._arrival.clear()
            await self._arrival.wait()
        taken, self._arrived = self._arrived, []
        return taken

    def set_prefetch(self, prefetch: int) -> None:
        """A larger prefetch takes a further consumer, since a new qos does not change a running one."""
        self._prefetch = max(1, prefetch)
        channel = self._open_channel()
        if channel is None or self._closed or self._prefetch == self._consumed:
            return
        if self._prefetch < self._consumed:
            self._cancel(channel)
        self._consume(channel, self._prefetch - self._consumed)

    async def close(self) -> None:
        self._closed = True
        if (channel := self._open_channel()) is not None:
            self._cancel(channel)
        arrived, self._arrived = self._arrived, []
        for delivery in arrived:
            if not delivery.stale:
                delivery.release()

    def fail(self, refused: Refused) -> None:
        """There will be no further connection: `take` raises the refusal."""
        self._refused = refused
        self._arrival.set()

    def flush(self) -> None:
        """Sends the acks that are gathered, before the connection closes."""
        if self._acks is not None:
            self._acks.flush()

    def _open_channel(self) -> Channel | None:
        channel = self._acks.channel if self._acks is not None else None
        return channel if channel is not None and channel.is_open else None

    def _consume(self, channel: Channel, prefetch: int) -> None:
        self._consumed += prefetch
        while prefetch > 0:
            channel.basic_qos(prefetch_count=min(prefetch, self._largest_prefetch))
            tag = channel.basic_consume(self._queue.name, self._on_delivery)
            self._consumer_tags.append(tag)
            if isinstance(self._source, Lane):  # the bodies of a lane need no headers
                channel.connection.direct[channel.channel_number, tag.encode()] = self._on_body
            prefetch -= self._largest_prefetch

    def _cancel(self, channel: Channel) -> None:
        for tag in self._consumer_tags:
            channel.basic_cancel(tag)
            channel.connection.direct.pop((channel.channel_number, tag.encode()), None)
        self._consumer_tags = []
        self._consumed = 0

    def _on_delivery(
        self, _: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        headers = properties.headers or {}
        lane, reason = lane_of(self._source, headers), reason_of(self._source, headers)
        self._arrive(method.delivery_tag, method.redelivered, body, lane=lane, reason=reason)

    def _on_body(self, tag: int, redelivered: bool, body: bytes) -> None:
        """A delivery of a lane, by the short cut."""
        assert isinstance(self._source, Lane)
        self._arrive(tag, redelivered, body, lane=self._source)

    def _arrive(self, tag: int, redelivered: bool, body: bytes, *, lane: Lane, reason: str = "") -> None:
        acks = self._acks
        if acks is None:
            return
        delivery = RabbitDelivery(
            body=body,
            lane=lane,
            reason=reason,
            redelivered=redelivered,
            _tag=tag,
            _acks=acks,
            _rejects=self._rejects,
        )
        acks.expect(tag)
        if self._closed:
            delivery.release()
            return
        self._arrived.append(delivery)
        self._arrival.set()

    def _on_channel_closed(self, channel: Channel, _: BaseException) -> None:
        acks = self._acks
        if acks is None or acks.channel is not channel:
            return
        acks.channel = None  # which makes its deliveries stale
        self._acks = None
        self._arrived = [delivery for delivery in self._arrived if not delivery.stale]
        close_with_its_channel(channel)
