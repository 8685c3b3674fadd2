"""Publishes over one connection, each publish with its confirm."""

import asyncio

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import AMQPError
from pika.frame import Method
from pika.spec import Basic, BasicProperties

from common.broker.rabbitmq.link import (
    Link,
    QueueStatus,
    close_with_its_channel,
    declare,
    delete,
    look_at,
    open_channel,
)
from common.broker.rabbitmq.publishing import Template, properties_of
from common.broker.topology import Queue
from common.errors import PublishFailed, Unavailable

LOOK_AGAIN_S = 0.01


class Publisher:
    """Each publish gets a future that is done once the broker has confirmed it."""

    def __init__(self, nodes: list[pika.ConnectionParameters], standing: list[Queue]) -> None:
        self._link = Link(nodes, self._on_up)
        self._standing = standing
        self._channel: Channel | None = None
        self._templates: dict[str, Template] = {}
        self._declared: set[str] = set()
        self._declaring = asyncio.Lock()
        self._next_tag = 1
        self._oldest = 1
        # Known to the broker by its tag, to a return by its queue and message id: a batch may go to two queues at once.
        self._unconfirmed: dict[int, tuple[tuple[str, str], asyncio.Future[None]]] = {}
        self._returned: set[tuple[str, str]] = set()

    async def start(self) -> None:
        """Connects and declares the standing queues. Raises Unavailable or Refused."""
        await self._link.start()

    @property
    def connected(self) -> bool:
        """Whether the connection is up."""
        return self._link.is_up

    @property
    def server_version(self) -> str:
        """RabbitMQ's version, as it says of itself."""
        return str((self._link.connection.server_properties or {}).get("version", "unknown"))

    async def ready(self) -> None:
        """Returns when the channel is open: the link hears of a loss a little later than the channel does."""
        await self._link.up()
        while self._channel is None or not self._channel.is_open:
            await asyncio.sleep(LOOK_AGAIN_S)
            await self._link.up()

    async def stop(self) -> None:
        """Closes the connection; what is unconfirmed fails."""
        await self._link.stop()
        self._fail_all("the connection is closed")

    def publish_batch(self, queue: str, body: bytes, message_id: str) -> "asyncio.Future[None]":
        """Publishes a batch to a queue through the default exchange, persistent and mandatory."""
        channel = self._channel
        if channel is None or not channel.is_open or len(body) > channel.connection.largest_body:
            return self.publish(queue, body, properties_of(message_id))
        template = self._templates.get(queue)
        if template is None:
            template = self._templates[queue] = Template(channel.channel_number, queue)
        channel.connection.send(template.frames(message_id, body))
        return self._sent(queue, message_id)

    def publish(self, queue: str, body: bytes, properties: BasicProperties) -> "asyncio.Future[None]":
        """The same, with any properties."""
        channel = self._channel
        try:
            if channel is None or not channel.is_open:
                raise PublishFailed("no connection to RabbitMQ")
            channel.basic_publish("", queue, body, properties, mandatory=True)
        except PublishFailed as error:
            return _failed(error)
        except AMQPError as error:
            return _failed(PublishFailed(f"the connection to RabbitMQ broke: {error!r}"))
        return self._sent(queue, properties.message_id or "")

    def _sent(self, queue: str, message_id: str) -> "asyncio.Future[None]":
        """The future of a confirm."""
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unconfirmed[self._next_tag] = ((queue, message_id), confirmed)
        self._next_tag += 1
        return confirmed

    async def look_at(self, queues: list[Queue]) -> dict[str, QueueStatus]:
        """How those queues stand that exist. Raises Unavailable or Refused."""
        found: dict[str, QueueStatus] = {}
        channel: Channel | None = None
        try:
            for queue in queues:
                if channel is None or not channel.is_open:  # asking for a queue that is missing closes it
                    channel, closed = await self._other_channel()
                status = await look_at(channel, closed, queue.name)
                if status is not None:
                    found[queue.name] = status
        finally:
            if channel is not None and channel.is_open:
                channel.close()
        return found

    async def ensure(self, queue: Queue) -> None:
        """Declares a queue, on a channel of its own, unless this connection did already.

        Raises PublishFailed or Refused.
        """
        # One at a time: RabbitMQ may nack what is published to a quorum queue that another declare is still making.
        async with self._declaring:
            if queue.name in self._declared:
                return
            try:
                channel, closed = await self._other_channel()
                try:
                    await declare(channel, closed, queue)
                finally:
                    if channel.is_open:
                        channel.close()
            except Unavailable as error:
                raise PublishFailed(str(error)) from None
            self._declared.add(queue.name)

    async def delete(self, queues: list[Queue]) -> None:
        """Deletes those of these queues that exist, with what is in them. Raises Unavailable or Refused."""
        channel, closed = await self._other_channel()
        try:
            for queue in queues:
                await delete(channel, closed, queue.name)
        finally:
            if channel.is_open:
                channel.close()

    async def _other_channel(self) -> tuple[Channel, "asyncio.Future[BaseException]"]:
        if self._channel is None:
            raise Unavailable("no connection to RabbitMQ")
        return await open_channel(self._channel.connection)

    async def _on_up(self, connection: AsyncioConnection) -> None:
        channel, closed = await open_channel(connection)
        for queue in self._standing:
            await declare(channel, closed, queue)
        self._fail_all("the connection to RabbitMQ was lost before the confirm")
        self._next_tag = self._oldest = 1
        self._declared.clear()
        self._templates.clear()
        channel.confirm_delivery(self._on_confirm)
        channel.add_on_return_callback(self._on_return)
        channel.add_on_close_callback(self._on_channel_closed)
        self._channel = channel

    def _on_channel_closed(self, channel: Channel, reason: BaseException) -> None:
        if channel is not self._channel:
            return
        self._channel = None
        self._fail_all(f"the connection to RabbitMQ was lost before the confirm: {reason!r}")
        close_with_its_channel(channel)

    def _on_return(self, _: Channel, method: Basic.Return, properties: BasicProperties, __: bytes) -> None:
        # The broker returns what it can't route before it confirms it.
        self._returned.add((method.routing_key, properties.message_id or ""))

    def _on_confirm(self, frame: Method) -> None:
        method = frame.method
        acked = isinstance(method, Basic.Ack)
        first = self._oldest if method.multiple else method.delivery_tag
        for tag in range(first, method.delivery_tag + 1):
            waiting = self._unconfirmed.pop(tag, None)
            if waiting is not None:
                self._settle(*waiting, acked)
        if method.multiple:
            self._oldest = method.delivery_tag + 1

    def _settle(self, name: tuple[str, str], confirmed: "asyncio.Future[None]", acked: bool) -> None:
        if confirmed.done():  # its caller was cancelled
            return
        if name in self._returned:
            self._returned.discard(name)
            confirmed.set_exception(PublishFailed("RabbitMQ has no such queue"))
            if self._channel is not None:  # a new connection declares the queues again
                close_with_its_channel(self._channel)
        elif acked:
            confirmed.set_result(None)
        else:
            confirmed.set_exception(PublishFailed("RabbitMQ refused the message (nack)"))

    def _fail_all(self, why: str) -> None:
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        self._returned.clear()
        for _, confirmed in unconfirmed.values():
            if not confirmed.done():
                confirmed.set_exception(PublishFailed(why))


def _failed(error: PublishFailed) -> "asyncio.Future[None]":
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    failed.set_exception(error)
    return failed
