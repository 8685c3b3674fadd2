"""One connection to RabbitMQ that is made again, with backoff, whenever it is lost."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import AMQPError
from pika.frame import Method

from common.backoff import Backoff
from common.broker.rabbitmq.opening import Closed, open_connection
from common.broker.rabbitmq.refusals import gone
from common.errors import Refused, RefusedForNow, Unavailable
from common.hosts import Address
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
        refused_s: For how long a refusal that may pass is kept from those who use the connection.
    """

    first_backoff_s: float = 0.1
    longest_backoff_s: float = 5.0
    heartbeat_s: int = 30
    socket_s: float = 5.0
    handshake_s: float = 10.0
    close_s: float = 2.0
    silence_s: float = 5.0
    longest_silence_s: float = 60.0
    refused_s: float = 10.0


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
        )
        for host in hosts
    ]


def _log_blocked(_: AsyncioConnection, frame: Method) -> None:
    """RabbitMQ takes no publishes for now: it is low on memory or disk."""
    log.warning("broker_blocked", extra={"reason": frame.method.reason})


class Link:
    """Keeps one connection open. `on_up` is awaited on each new connection before that counts as up.

    A lost connection is made again for as long as the link is open, refused or not. `on_refused` is called once
    RabbitMQ has refused it for good, or for `Timing.refused_s` where the refusal may pass.
    """

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

    async def start(self, within_s: float | None = None) -> None:
        """Connects once, trying each node. Raises Unavailable or Refused.

        To open a connection may take `within_s` seconds, or `Timing.handshake_s` if that is less.
        """
        closed = await self._connect(within_s)
        self._task = asyncio.create_task(self._keep(closed))

    async def up(self) -> None:
        """Returns when the connection is up. Raises Refused while RabbitMQ refuses it."""
        await self._up.wait()
        if self._refused is not None:
            raise self._refused

    @property
    def is_up(self) -> bool:
        """Whether the connection is up."""
        return self._up.is_set() and self._refused is None

    @property
    def refusal(self) -> Refused | None:
        """Why RabbitMQ refuses the connection, once that is more than a moment."""
        return self._refused

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

    async def _connect(self, within_s: float | None = None) -> Closed:
        """Connects to one of the nodes, in random order. A refusal of one says more than the silence of another."""
        failure: Unavailable | Refused = Unavailable("RABBITMQ_HOST names no host")
        for params in random.sample(self._nodes, len(self._nodes)):
            try:
                return await self._connect_to(params, within_s or self._timing.handshake_s)
            except Refused as refused:
                failure = refused
            except Unavailable as unavailable:
                failure = failure if isinstance(failure, Refused) else unavailable
        raise failure

    async def _connect_to(self, params: pika.ConnectionParameters, within_s: float) -> Closed:
        params = copy(params)
        params.stack_timeout = min(self._timing.handshake_s, within_s)
        opened = await open_connection(params)
        self._connection = opened.connection
        opened.connection.add_on_connection_blocked_callback(_log_blocked)
        opened.connection.add_on_connection_unblocked_callback(lambda *_: log.info("broker_unblocked"))
        await self._set_up(opened.connection)
        if opened.closed.done():
            raise Unavailable(f"RabbitMQ at {Address(params.host, params.port)} closed the connection")
        self._refused = None
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
        """Connects again whenever the connection is lost. Pauses grow while no connection lasts."""
        clock = asyncio.get_running_loop().time
        backoff = Backoff(self._timing.first_backoff_s, self._timing.longest_backoff_s, jitter=0.5)
        while True:
            up_s = clock()
            reason = await closed
            self._up.clear()
            log.warning("broker_lost", extra={"reason": str(reason) or type(reason).__name__})
            if clock() - up_s > self._timing.longest_backoff_s:
                backoff.reset()
            closed = await self._reconnect(backoff)
            log.info("broker_back")

    async def _reconnect(self, backoff: Backoff) -> Closed:
        since_s: float | None = None
        while True:
            await backoff.pause()
            try:
                return await self._connect()
            except Refused as refused:
                if since_s is None:
                    since_s = asyncio.get_running_loop().time()
                    log.warning("broker_refuses", extra={"reason": str(refused)})
                self._heed(refused, since_s)
            except Unavailable:
                since_s = None

    def _heed(self, refused: Refused, since_s: float) -> None:
        """Makes a refusal known, unless it may soon pass."""
        lasted_s = asyncio.get_running_loop().time() - since_s
        may_pass = isinstance(refused, RefusedForNow) and lasted_s < self._timing.refused_s
        if may_pass or self._refused is not None:
            return
        log.error("broker_refused", extra={"reason": str(refused)})
        self._refused = refused
        self._up.set()
        self._on_refused(refused)
