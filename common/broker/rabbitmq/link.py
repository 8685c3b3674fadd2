"""One connection to RabbitMQ that is made again, with backoff, whenever it is lost."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import AMQPError

from common.backoff import Backoff
from common.broker.rabbitmq.opening import Closed, gone, open_connection
from common.errors import Refused, Unavailable
from common.settings import Settings
from common.tls import tls_context

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of connections, in seconds.

    Attributes:
        first_backoff_s: Longest pause before a lost connection is made again; the next pauses double.
        longest_backoff_s: Longest pause of all.
        heartbeat_s: Interval of AMQP's heartbeats.
        socket_s: How long to connect the socket may take.
        handshake_s: How long to open the connection may take.
        close_s: How long to close it may take.
        silence_s: A consumer that could take more and gets nothing for this long is renewed; twice as long each further
            time.
        longest_silence_s: The longest of these times.
    """

    first_backoff_s: float = 0.1
    longest_backoff_s: float = 5.0
    heartbeat_s: int = 30
    socket_s: float = 5.0
    handshake_s: float = 10.0
    close_s: float = 2.0
    silence_s: float = 5.0
    longest_silence_s: float = 60.0


TIMING = Timing()


def parameters(settings: Settings, purpose: str, timing: Timing = TIMING) -> list[pika.ConnectionParameters]:
    """The connection parameters for each node in RABBITMQ_HOST. RabbitMQ shows the purpose as connection name."""
    tls = None
    hosts = [host.strip() for host in settings.rabbitmq_host.split(",") if host.strip()]
    if settings.rabbitmq_tls:
        tls = tls_context("RABBITMQ_CA_FILE", settings.rabbitmq_ca_file)
    password = settings.rabbitmq_password.get_secret_value()
    return [
        pika.ConnectionParameters(
            host=host,
            port=settings.rabbitmq_port,
            virtual_host=settings.rabbitmq_vhost,
            credentials=pika.PlainCredentials(settings.rabbitmq_user, password),
            heartbeat=timing.heartbeat_s,
            ssl_options=pika.SSLOptions(tls, host) if tls else None,
            client_properties={"connection_name": f"smsim {purpose}"},
            socket_timeout=timing.socket_s,
            stack_timeout=timing.handshake_s,
        )
        for host in hosts
    ]


class Link:
    """Keeps one connection open. `on_up` is awaited on each new connection before that counts as up."""

    def __init__(
        self,
        nodes: list[pika.ConnectionParameters],
        on_up: Callable[[AsyncioConnection], Awaitable[None]],
        on_refused: Callable[[Refused], None] = lambda _: None,
        timing: Timing = TIMING,
    ) -> None:
        self._nodes = nodes
        self._on_up = on_up
        self._on_refused = on_refused
        self._timing = timing
        self._connection: AsyncioConnection | None = None
        self._up = asyncio.Event()
        self._refused: Refused | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connects once, trying each node. Raises Unavailable or Refused."""
        closed = await self._connect()
        self._task = asyncio.create_task(self._keep(closed))

    async def up(self) -> None:
        """Returns when the connection is up. Raises Refused once RabbitMQ has refused to connect again."""
        await self._up.wait()
        if self._refused is not None:
            raise self._refused

    @property
    def is_up(self) -> bool:
        """Whether the connection is up."""
        return self._up.is_set() and self._refused is None

    @property
    def connection(self) -> AsyncioConnection:
        """The latest connection, up or not."""
        if self._connection is None:
            raise Unavailable("the link was never started")
        return self._connection

    async def stop(self) -> None:
        """Closes the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        connection = self._connection
        if connection is None or connection.is_closed or connection.is_closing:
            return
        closed = asyncio.Event()
        connection.add_on_close_callback(lambda *_: closed.set())
        connection.close()
        try:
            async with asyncio.timeout(self._timing.close_s):
                await closed.wait()
        except TimeoutError:
            log.warning("broker_slow_to_close", extra={"waited_s": self._timing.close_s})

    async def _connect(self) -> Closed:
        """Connects to one of the nodes, in random order."""
        unavailable = Unavailable("RABBITMQ_HOST names no host")
        for params in random.sample(self._nodes, len(self._nodes)):
            try:
                return await self._connect_to(params)
            except Unavailable as error:
                unavailable = error
        raise unavailable

    async def _connect_to(self, params: pika.ConnectionParameters) -> Closed:
        opened = await open_connection(params)
        self._connection = opened.connection
        await self._set_up(opened.connection)
        if opened.closed.done():
            raise Unavailable(f"RabbitMQ at {params.host}:{params.port} closed the connection")
        self._up.set()
        return opened.closed

    async def _set_up(self, connection: AsyncioConnection) -> None:
        try:
            await self._on_up(connection)
        except (Unavailable, Refused, AMQPError) as error:
            if connection.is_open:
                connection.close()
            if isinstance(error, AMQPError):
                raise gone(error) from None
            raise

    async def _keep(self, closed: Closed) -> None:
        """Connects again whenever the connection is lost, until RabbitMQ refuses."""
        while True:
            reason = await closed
            self._up.clear()
            log.warning("broker_lost", extra={"reason": str(reason) or type(reason).__name__})
            try:
                closed = await self._reconnect()
            except Refused as refused:
                log.error("broker_refused", extra={"reason": str(refused)})
                self._refused = refused
                self._up.set()
                self._on_refused(refused)
                return
            log.info("broker_back")

    async def _reconnect(self) -> Closed:
        backoff = Backoff(self._timing.first_backoff_s, self._timing.longest_backoff_s, jitter=0.5)
        while True:
            await backoff.pause()
            try:
                return await self._connect()
            except Unavailable:
                continue
