"""One connection to RabbitMQ that is made again, with backoff, whenever it is lost."""

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)
from pika.frame import Method

from common.backoff import Backoff
from common.broker.rabbitmq.connection import GatheringConnection
from common.broker.topology import Queue
from common.errors import Refused, Unavailable
from common.settings import Settings
from common.tls import tls_context

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 5.0
HEARTBEAT_S = 30

PRECONDITION_FAILED = 406
NOT_FOUND = 404
ACCESS_REFUSED = 403
NOT_ALLOWED = 530


def parameters(settings: Settings, purpose: str) -> list[pika.ConnectionParameters]:
    """What to connect with, for each node that RABBITMQ_HOST names."""
    tls = None
    hosts = [host.strip() for host in settings.rabbitmq_host.split(",") if host.strip()]
    if settings.rabbitmq_tls:
        tls = tls_context("RABBITMQ_CA_FILE", settings.rabbitmq_ca_file)
    return [
        pika.ConnectionParameters(
            host=host,
            port=settings.rabbitmq_port,
            virtual_host=settings.rabbitmq_vhost,
            credentials=pika.PlainCredentials(
                settings.rabbitmq_user, settings.rabbitmq_password.get_secret_value()
            ),
            heartbeat=HEARTBEAT_S,
            ssl_options=pika.SSLOptions(tls, host) if tls else None,
            client_properties={"connection_name": f"smsim {purpose}"},
            socket_timeout=5,
            stack_timeout=10,
        )
        for host in hosts
    ]


async def open_connection(
    params: pika.ConnectionParameters,
) -> tuple[AsyncioConnection, "asyncio.Future[BaseException]"]:
    """An open connection, and a future that is done when it is closed. Raises Refused or Unavailable."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[AsyncioConnection] = loop.create_future()
    closed: asyncio.Future[BaseException] = loop.create_future()

    def on_open(connection: AsyncioConnection) -> None:
        if not opened.done():
            opened.set_result(connection)

    def on_open_error(_: AsyncioConnection, error: BaseException) -> None:
        if not opened.done():
            opened.set_exception(_sorted_out(error, params))

    def on_close(_: AsyncioConnection, reason: BaseException) -> None:
        on_open_error(_, reason)
        if not closed.done():
            closed.set_result(reason)

    connection = GatheringConnection(params, on_open, on_open_error, on_close, custom_ioloop=loop)
    try:
        return await opened, closed
    except asyncio.CancelledError:
        if not (connection.is_closed or connection.is_closing):
            connection.close()
        raise


async def open_channel(connection: AsyncioConnection) -> tuple[Channel, "asyncio.Future[BaseException]"]:
    """An open channel, and a future that is done when it is closed. Raises Unavailable."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Channel] = loop.create_future()
    closed: asyncio.Future[BaseException] = loop.create_future()

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
        raise Unavailable(f"RabbitMQ is gone: {error!r}") from None
    return await opened, closed


def close_with_its_channel(channel: Channel) -> None:
    """Closes the connection of a channel that the broker closed: its link then makes both anew."""
    connection = channel.connection
    if connection is not None and connection.is_open:
        connection.close()


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """What RabbitMQ says of a queue: how many bodies wait in it, and how many consumers it has.

    It says 0 and 0 of a quorum queue that can't answer it within 250 ms (rabbit_quorum_queue:stat).
    """

    waiting: int
    consumers: int


async def declare(channel: Channel, closed: "asyncio.Future[BaseException]", queue: Queue) -> None:
    """Declares a durable queue. Raises Refused where it stands with other arguments, or Unavailable."""
    answer = await _declare(channel, closed, queue.name, durable=True, arguments=queue.arguments)
    if isinstance(answer, QueueStatus):
        return
    if _code(answer) == PRECONDITION_FAILED:
        raise Refused(
            f"queue {queue.name} stands with other arguments than it gets with QUEUE_TYPE="
            f"{queue.arguments['x-queue-type']}: set QUEUE_TYPE back if it was changed, else empty and delete the queue"
            " (an older version made it), or choose another QUEUE_NAME"
        )
    raise _refused_or_unavailable(answer, queue.name)


async def look_at(
    channel: Channel, closed: "asyncio.Future[BaseException]", queue: str
) -> QueueStatus | None:
    """How a queue stands; None, and a closed channel, if there is none. Raises Refused or Unavailable."""
    answer = await _declare(channel, closed, queue, passive=True)
    if isinstance(answer, QueueStatus):
        return answer
    if _code(answer) == NOT_FOUND:
        return None
    raise _refused_or_unavailable(answer, queue)


async def delete(channel: Channel, closed: "asyncio.Future[BaseException]", queue: str) -> None:
    """Deletes a queue with what is in it, if there is one. Raises Refused or Unavailable."""
    deleted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_deleted(_: Method) -> None:
        if not deleted.done():
            deleted.set_result(None)

    try:
        channel.queue_delete(queue, callback=on_deleted)
    except AMQPError as error:
        raise Unavailable(f"RabbitMQ is gone: {error!r}") from None
    either: list[asyncio.Future[Any]] = [deleted, closed]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not deleted.done():
        raise _refused_or_unavailable(closed.result(), queue)


async def _declare(
    channel: Channel, closed: "asyncio.Future[BaseException]", queue: str, **how: Any
) -> QueueStatus | BaseException:
    """What RabbitMQ says of the queue, or why it closed the channel."""
    declared: asyncio.Future[QueueStatus] = asyncio.get_running_loop().create_future()

    def on_declared(frame: Method) -> None:
        if not declared.done():
            declared.set_result(QueueStatus(frame.method.message_count, frame.method.consumer_count))

    try:
        channel.queue_declare(queue, callback=on_declared, **how)
    except AMQPError as error:
        raise Unavailable(f"RabbitMQ is gone: {error!r}") from None
    either: list[asyncio.Future[Any]] = [declared, closed]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    return declared.result() if declared.done() else closed.result()


def _code(reason: BaseException) -> int | None:
    """The code with which RabbitMQ closed a channel; None if it was not RabbitMQ that did."""
    return reason.reply_code if isinstance(reason, ChannelClosedByBroker) else None


def _refused_or_unavailable(reason: BaseException, queue: str) -> Refused | Unavailable:
    if isinstance(reason, ChannelClosedByBroker) and reason.reply_code == ACCESS_REFUSED:
        return Refused(f"RabbitMQ refuses queue {queue} to this user: {reason.reply_text}")
    return Unavailable(f"RabbitMQ closed the channel: {reason!r}")


def _sorted_out(error: BaseException, params: pika.ConnectionParameters) -> Unavailable | Refused:
    """A connection error as one of ours: will trying again help?"""
    where = f"RabbitMQ at {params.host}:{params.port}"
    for cause in _causes(error):
        # pika takes any loss of the connection during the handshake for a probable refusal; RabbitMQ says so in words.
        probable = isinstance(cause, ProbableAuthenticationError | ProbableAccessDeniedError)
        said = str(cause.args) if probable else ""
        code = cause.reply_code if isinstance(cause, ConnectionClosedByBroker) else None
        if isinstance(cause, AuthenticationError) and not probable:
            code = ACCESS_REFUSED
        if code == ACCESS_REFUSED or f"({ACCESS_REFUSED})" in said:
            return Refused(f"{where} refuses the login: check RABBITMQ_USER and RABBITMQ_PASSWORD")
        if code == NOT_ALLOWED or f"({NOT_ALLOWED})" in said:
            return Refused(f"{where} refuses the virtual host: check RABBITMQ_VHOST={params.virtual_host}")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Refused(f"{where}: its certificate is not trusted: check RABBITMQ_CA_FILE")
    return Unavailable(f"{where} can't be reached")


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what pika has nested in it."""
    nested = [error]
    for inner in (getattr(error, "exception", None), *getattr(error, "exceptions", ())):
        if isinstance(inner, BaseException):
            nested += _causes(inner)
    return nested


class Link:
    """Keeps one connection open. `on_up` is awaited on each new one before it counts as up."""

    def __init__(
        self,
        nodes: list[pika.ConnectionParameters],
        on_up: Callable[[AsyncioConnection], Awaitable[None]],
        on_refused: Callable[[Refused], None] = lambda _: None,
    ) -> None:
        self._nodes = nodes
        self._on_up = on_up
        self._on_refused = on_refused
        self._connection: AsyncioConnection | None = None
        self._up = asyncio.Event()
        self._ended: Refused | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connects once, trying each node. Raises Unavailable or Refused."""
        closed = await self._connect()
        self._task = asyncio.create_task(self._keep(closed))

    async def up(self) -> None:
        """Returns when the connection is up. Raises Refused once RabbitMQ refused to have us back."""
        await self._up.wait()
        if self._ended is not None:
            raise self._ended

    @property
    def is_up(self) -> bool:
        """Whether the connection is up."""
        return self._up.is_set() and self._ended is None

    @property
    def connection(self) -> AsyncioConnection:
        """The present connection, up or not."""
        if self._connection is None:
            raise Unavailable("the link was never started")
        return self._connection

    async def stop(self) -> None:
        """Closes the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        connection = self._connection
        if connection is not None and not (connection.is_closed or connection.is_closing):
            gone = asyncio.Event()
            connection.add_on_close_callback(lambda *_: gone.set())
            connection.close()
            try:
                async with asyncio.timeout(2):
                    await gone.wait()
            except TimeoutError:
                log.warning("broker_slow_to_close")

    async def _connect(self) -> "asyncio.Future[BaseException]":
        nodes = random.sample(self._nodes, len(self._nodes))
        for left, params in zip(range(len(nodes) - 1, -1, -1), nodes, strict=True):
            try:
                connection, closed = await open_connection(params)
                self._connection = connection
                await self._set_up(connection)
            except Unavailable:
                if left == 0:
                    raise
                continue
            if closed.done():
                raise Unavailable(f"RabbitMQ at {params.host}:{params.port} closed the connection")
            self._up.set()
            return closed
        raise Unavailable("RABBITMQ_HOST names no host")

    async def _set_up(self, connection: AsyncioConnection) -> None:
        try:
            await self._on_up(connection)
        except (Unavailable, Refused, AMQPError) as error:
            if connection.is_open:
                connection.close()
            if isinstance(error, AMQPError):
                raise Unavailable(f"RabbitMQ is gone: {error!r}") from None
            raise

    async def _keep(self, closed: "asyncio.Future[BaseException]") -> None:
        while True:
            reason = await closed
            self._up.clear()
            log.warning("broker_lost", extra={"reason": str(reason) or type(reason).__name__})
            backoff = Backoff(FIRST_BACKOFF_S, LONGEST_BACKOFF_S, jitter=0.5)
            while True:
                await backoff.pause()
                try:
                    closed = await self._connect()
                    break
                except Unavailable:
                    continue
                except Refused as refused:
                    self._ended = refused
                    self._up.set()
                    self._on_refused(refused)
                    log.error("broker_refused", extra={"reason": str(refused)})
                    return
            log.info("broker_back")
