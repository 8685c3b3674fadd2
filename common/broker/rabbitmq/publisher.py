"""Publishes over one connection, each publish with its confirm; declares, inspects and deletes queues."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import AMQPError
from pika.frame import Method
from pika.spec import Basic, BasicProperties

from common.broker.rabbitmq.confirms import Confirms, failed
from common.broker.rabbitmq.direct import DirectConnection, Template, properties_of
from common.broker.rabbitmq.link import TIMING, Link, Timing
from common.broker.rabbitmq.opening import OpenChannel, close_with_its_channel, open_channel
from common.broker.rabbitmq.queues import QueueStatus, declare, delete, status_of
from common.broker.rabbitmq.refusals import channel_error, too_large, words_of
from common.broker.topology import Queue
from common.errors import PublishFailed, Refused, TooLarge, Unavailable

# The link notices a lost connection a moment after the channel does.
CHANNEL_POLL_S = 0.01


class Publisher:
    """Publishes through the default exchange, mandatory, with publisher confirms."""

    def __init__(
        self, nodes: list[pika.ConnectionParameters], standing: list[Queue], timing: Timing = TIMING
    ) -> None:
        self._link = Link(nodes, self._on_up, timing=timing)
        self._standing = standing
        self._channel: Channel | None = None
        self._templates: dict[str, Template] = {}
        self._declared: set[str] = set()
        self._declaring = asyncio.Lock()
        self._confirms = Confirms()
        self._limit: TooLarge | None = None

    async def start(self, within_s: float | None = None) -> None:
        """Connects and declares the standing queues. Raises Unavailable or Refused."""
        await self._link.start(within_s)

    @property
    def connected(self) -> bool:
        """Whether the connection is up."""
        return self._link.is_up

    @property
    def refusal(self) -> Refused | None:
        """Why RabbitMQ refuses the connection, once that is more than a moment."""
        return self._link.refusal

    @property
    def server_version(self) -> str:
        """The version of RabbitMQ."""
        return str((self._link.connection.server_properties or {}).get("version", "unknown"))

    async def ready(self) -> None:
        """Returns when the channel is open."""
        await self._link.up()
        while not self._channel_is_open():
            await asyncio.sleep(CHANNEL_POLL_S)
            await self._link.up()

    async def stop(self) -> None:
        """Closes the connection; publishes without a confirm fail."""
        await self._link.stop()
        self._confirms.fail_all("the connection is closed")

    def publish_batch(self, queue: str, body: bytes, message_id: str) -> "asyncio.Future[None]":
        """Publishes a persistent batch to a queue. The future may raise PublishFailed or Refused."""
        channel = self._channel
        if channel is None or not channel.is_open:
            return failed(PublishFailed("no connection to RabbitMQ"))
        if self._limit is not None and len(body) > self._limit.most_bytes:
            return failed(TooLarge(str(self._limit), self._limit.most_bytes))
        connection = cast(DirectConnection, channel.connection)
        if len(body) > connection.largest_body:
            return self.publish(queue, body, properties_of(message_id))
        template = self._templates.get(queue)
        if template is None:
            template = self._templates[queue] = Template(channel.channel_number, queue)
        connection.send(template.frames(message_id, body))
        return self._confirms.published(queue, message_id)

    def publish(self, queue: str, body: bytes, properties: BasicProperties) -> "asyncio.Future[None]":
        """Publishes a body with any properties. The future may raise PublishFailed or Refused."""
        channel = self._channel
        if channel is None or not channel.is_open:
            return failed(PublishFailed("no connection to RabbitMQ"))
        if self._limit is not None and len(body) > self._limit.most_bytes:
            return failed(TooLarge(str(self._limit), self._limit.most_bytes))
        try:
            channel.basic_publish("", queue, body, properties, mandatory=True)
        except AMQPError as error:
            return failed(PublishFailed(f"the connection to RabbitMQ broke: {error!r}"))
        return self._confirms.published(queue, properties.message_id or "")

    async def statuses(self, queues: list[Queue]) -> dict[str, QueueStatus]:
        """The status of each queue that exists, by name. Raises Unavailable or Refused."""
        found: dict[str, QueueStatus] = {}
        over: OpenChannel | None = None
        try:
            for queue in queues:
                if (
                    over is None or not over.is_open
                ):  # to ask for a queue that does not exist closes the channel
                    over = await self._open_channel()
                status = await status_of(over, queue.name)
                if status is not None:
                    found[queue.name] = status
        finally:
            if over is not None:
                over.close()
        return found

    async def ensure(self, queue: Queue) -> None:
        """Declares a queue, unless this connection has declared it before. Raises PublishFailed or Refused."""
        # One at a time: RabbitMQ may nack a publish to a quorum queue that another declare is still creating.
        async with self._declaring:
            if queue.name in self._declared:
                return
            try:
                async with self._other_channel() as over:
                    (await declare(over, queue)).close()
            except Unavailable as error:
                raise PublishFailed(str(error)) from None
            self._declared.add(queue.name)

    async def delete(self, queues: list[Queue]) -> None:
        """Deletes those of the queues that exist, with their bodies. Raises Unavailable or Refused."""
        async with self._other_channel() as over:
            for queue in queues:
                await delete(over, queue.name)

    @asynccontextmanager
    async def _other_channel(self) -> AsyncIterator[OpenChannel]:
        """A channel for queue operations: an error of one closes its channel."""
        over = await self._open_channel()
        try:
            yield over
        finally:
            over.close()

    async def _open_channel(self) -> OpenChannel:
        if self._channel is None:
            raise Unavailable("no connection to RabbitMQ")
        return await open_channel(self._channel.connection)

    def _channel_is_open(self) -> bool:
        return self._channel is not None and bool(self._channel.is_open)

    async def _on_up(self, connection: AsyncioConnection) -> None:
        over = await open_channel(connection)
        for queue in self._standing:
            over = await declare(over, queue)
        self._confirms.fail_all("the connection to RabbitMQ was lost before the confirm")
        self._declared.clear()
        self._templates.clear()
        over.channel.confirm_delivery(self._on_confirm)
        over.channel.add_on_return_callback(self._on_return)
        over.channel.add_on_close_callback(self._on_channel_closed)
        self._channel = over.channel

    def _on_channel_closed(self, channel: Channel, reason: BaseException) -> None:
        if channel is not self._channel:
            return
        self._channel = None
        # Any of the publishes may be the one over the limit: repeated, it is refused here, and the others go out.
        self._limit = too_large(reason)
        error = channel_error(reason, "publish")
        if self._limit is None and isinstance(error, Refused):
            self._confirms.fail_all(str(error), Refused)
        else:
            self._confirms.fail_all(
                f"the connection to RabbitMQ was lost before the confirm: {words_of(reason)}"
            )
        close_with_its_channel(channel, f"RabbitMQ closed the channel for publishing: {words_of(reason)}")

    def _on_return(self, _: Channel, method: Basic.Return, properties: BasicProperties, __: bytes) -> None:
        self._confirms.returned(method.routing_key, properties.message_id or "")

    def _on_confirm(self, frame: Method) -> None:
        unroutable = self._confirms.confirmed(frame.method)
        if unroutable and self._channel is not None:
            # A queue was deleted: a new connection declares the queues again.
            close_with_its_channel(self._channel, "RabbitMQ returned a message: a queue was deleted")
