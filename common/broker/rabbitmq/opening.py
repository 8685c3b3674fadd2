"""Opens connections and channels of pika as coroutines."""

import asyncio
from dataclasses import dataclass

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import AMQPError

from common.broker.rabbitmq.direct import DirectConnection
from common.broker.rabbitmq.refusals import channel_error, connection_error, gone

# AMQP 0-9-1: a short string has up to 255 bytes.
LONGEST_REPLY_CHARS = 200

Closed = asyncio.Future[BaseException]
"""Done when a connection or a channel is closed, with the reason."""


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """A connection, and the future that is done when it is closed."""

    connection: AsyncioConnection
    closed: Closed


@dataclass(frozen=True, slots=True)
class OpenChannel:
    """A channel, and the future that is done when it is closed."""

    channel: Channel
    closed: Closed

    @property
    def is_open(self) -> bool:
        """Whether it is still open."""
        return bool(self.channel.is_open)

    def close(self) -> None:
        """Closes it, unless it is closed."""
        if self.is_open:
            self.channel.close()


async def open_connection(params: pika.ConnectionParameters) -> OpenConnection:
    """Opens a connection. Raises Refused or Unavailable."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[AsyncioConnection] = loop.create_future()
    closed: Closed = loop.create_future()

    def on_open(connection: AsyncioConnection) -> None:
        if not opened.done():
            opened.set_result(connection)

    def on_open_error(_: AsyncioConnection, error: BaseException) -> None:
        if not opened.done():
            opened.set_exception(connection_error(error, params))

    def on_close(_: AsyncioConnection, reason: BaseException) -> None:
        on_open_error(_, reason)
        if not closed.done():
            closed.set_result(reason)

    connection = DirectConnection(params, on_open, on_open_error, on_close, custom_ioloop=loop)
    try:
        return OpenConnection(await opened, closed)
    except asyncio.CancelledError:
        if not (connection.is_closed or connection.is_closing):
            connection.close()
        raise


async def open_channel(connection: AsyncioConnection) -> OpenChannel:
    """Opens a channel. Raises Unavailable or Refused."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Channel] = loop.create_future()
    closed: Closed = loop.create_future()

    def on_close(_: Channel, reason: BaseException) -> None:
        if not opened.done():
            opened.set_exception(channel_error(reason, "open a channel"))
        if not closed.done():
            closed.set_result(reason)

    def on_open(channel: Channel) -> None:
        if not opened.done():
            opened.set_result(channel)

    try:
        connection.channel(on_open_callback=on_open).add_on_close_callback(on_close)
    except AMQPError as error:
        raise gone(error) from None
    return OpenChannel(await opened, closed)


def close_with_its_channel(channel: Channel, why: str) -> None:
    """Closes the connection of a channel that RabbitMQ closed. Its link logs why, and opens both again."""
    connection = channel.connection
    if connection is not None and connection.is_open:
        connection.close(reply_text=why[:LONGEST_REPLY_CHARS])
