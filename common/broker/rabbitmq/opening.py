"""Opens connections and channels of pika as coroutines, and turns pika's errors into ours."""

import asyncio
import ssl
from dataclasses import dataclass

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)
from pika.spec import ACCESS_REFUSED, NOT_ALLOWED

from common.broker.rabbitmq.direct import DirectConnection
from common.errors import Refused, Unavailable

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
            opened.set_exception(_connection_error(error, params))

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
    """Opens a channel. Raises Unavailable."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Channel] = loop.create_future()
    closed: Closed = loop.create_future()

    def on_close(_: Channel, reason: BaseException) -> None:
        if not opened.done():
            opened.set_exception(Unavailable(f"RabbitMQ closed the channel: {reason}"))
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


def close_with_its_channel(channel: Channel) -> None:
    """Closes the connection of a channel that RabbitMQ closed. Its link then opens both again."""
    connection = channel.connection
    if connection is not None and connection.is_open:
        connection.close()


def gone(error: AMQPError) -> Unavailable:
    """The connection was lost during a call of pika."""
    return Unavailable(f"RabbitMQ is gone: {error!r}")


def _connection_error(error: BaseException, params: pika.ConnectionParameters) -> Unavailable | Refused:
    """A connection error as one of ours: Refused if trying again cannot help."""
    where = f"RabbitMQ at {params.host}:{params.port}"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Refused(f"{where}: its certificate is not trusted: check RABBITMQ_CA_FILE")
        refusal = _refusal(cause)
        if refusal == ACCESS_REFUSED:
            return Refused(f"{where} refuses the login: check RABBITMQ_USER and RABBITMQ_PASSWORD")
        if refusal == NOT_ALLOWED:
            return Refused(f"{where} refuses the virtual host: check RABBITMQ_VHOST={params.virtual_host}")
    return Unavailable(f"{where} can't be reached")


def _refusal(error: BaseException) -> int | None:
    """The code with which RabbitMQ refused a connection, if it did."""
    if isinstance(error, ProbableAuthenticationError | ProbableAccessDeniedError):
        # pika raises these for any loss of the connection during the handshake. RabbitMQ's code is in the text.
        text = str(error.args)
        return next((code for code in (ACCESS_REFUSED, NOT_ALLOWED) if f"({code})" in text), None)
    if isinstance(error, AuthenticationError):
        return int(ACCESS_REFUSED)
    return error.reply_code if isinstance(error, ConnectionClosedByBroker) else None


def _causes(error: BaseException) -> list[BaseException]:
    """An error, and the errors that pika has nested in it."""
    nested = [error]
    for inner in (getattr(error, "exception", None), *getattr(error, "exceptions", ())):
        if isinstance(inner, BaseException):
            nested += _causes(inner)
    return nested
