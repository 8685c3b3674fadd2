"""Reads the bodies in queues without removing them: they are given back when the connection closes."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Container, Iterable
from dataclasses import dataclass

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import AMQPError
from pika.frame import Method
from pika.spec import Basic, BasicProperties

from common.broker.rabbitmq.link import Link
from common.broker.rabbitmq.opening import OpenChannel, open_channel
from common.broker.rabbitmq.queues import status_of
from common.broker.rabbitmq.refusals import gone
from common.errors import Unavailable
from common.messages import MAX_BODY_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes and the timing of a peek.

    Attributes:
        window_bodies: Most bodies that are asked for at once.
        window_bytes: Most bytes that are asked for at once, by the size of the bodies so far.
        silence_s: A queue that does not deliver for this long has no more bodies, in seconds.
    """

    window_bodies: int = 1000
    window_bytes: int = 16 * 1024 * 1024
    silence_s: float = 5.0


LIMITS = Limits()


async def peek_at(
    nodes: list[pika.ConnectionParameters],
    *,
    queues: list[str],
    needed: Container[str],
    limits: Limits = LIMITS,
) -> AsyncGenerator[tuple[str, bytes], None]:
    """The bodies of the queues in their order, each with the name of its queue, over a connection of its own.

    Raises Refused; and Unavailable, also if a needed queue is missing: RabbitMQ reports a classic queue whose node is
    down as missing, and its bodies must not be taken for lost.
    """
    link = Link(nodes, _no_set_up)
    try:
        await link.start()
        for queue in queues:
            async for body in _bodies(link.connection, queue, needed=queue in needed, limits=limits):
                yield queue, body
    except AMQPError as error:
        raise gone(error) from None
    finally:
        await link.stop()


async def _no_set_up(_: AsyncioConnection) -> None:
    return


async def _bodies(
    connection: AsyncioConnection, queue: str, *, needed: bool, limits: Limits
) -> AsyncGenerator[bytes, None]:
    """All bodies in a queue. They are held over a channel that stays open."""
    over = await open_channel(connection)
    reader = _Reader(over, queue, limits.silence_s)
    largest = MAX_BODY_BYTES
    while True:
        status = await status_of(over, queue)
        if status is None and needed:
            raise Unavailable(f"RabbitMQ has no queue {queue} now")
        if status is None:
            break
        wanted = min(status.waiting, limits.window_bodies, max(1, limits.window_bytes // largest))
        if wanted:
            reader.consume(wanted)
        largest = 1
        while wanted and (body := await reader.next()) is not None:
            wanted -= 1
            largest = max(largest, len(body))
            yield body
        if status.waiting and not wanted:
            continue
        # The queue seems empty, but RabbitMQ may have been too busy to count. It always answers a get.
        body = await reader.get()
        if body is None:
            break
        yield body
    for body in reader.rest():
        yield body


class _Reader:
    """Receives bodies of one queue over one channel, without acks.

    A consumer without a limit gets 2000 bodies of a quorum queue at most, and 65,535 is the highest limit there is.
    So each window has a consumer of its own, which also bounds the memory.
    """

    def __init__(self, over: OpenChannel, queue: str, silence_s: float) -> None:
        self._channel = over.channel
        self._closed = over.closed
        self._queue = queue
        self._silence_s = silence_s
        self._arrived: deque[bytes] = deque()
        self._change = asyncio.Event()
        self._empty = False
        self._channel.add_callback(self._on_empty, [Basic.GetEmpty])
        self._closed.add_done_callback(lambda _: self._change.set())

    def consume(self, count: int) -> None:
        """Asks for `count` more bodies."""
        self._channel.basic_qos(prefetch_count=count)
        self._channel.basic_consume(self._queue, self._on_body)

    async def next(self) -> bytes | None:
        """The next body that was asked for; None if none arrives for `silence_s`. Raises Unavailable."""
        if not self._arrived:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._silence_s):
                    await self._changed()
        self._check()
        return self._arrived.popleft() if self._arrived else None

    async def get(self) -> bytes | None:
        """Asks for one body, however long the answer takes; None if the queue is empty. Raises Unavailable."""
        self._empty = False
        self._channel.basic_get(self._queue, self._on_body)
        while not (self._arrived or self._empty):
            await self._changed()
            self._check()
        return self._arrived.popleft() if self._arrived else None

    def rest(self) -> Iterable[bytes]:
        """Bodies that arrived after `next` gave up."""
        return self._arrived

    def _on_body(
        self, _: Channel, __: Basic.Deliver | Basic.GetOk, ___: BasicProperties, body: bytes
    ) -> None:
        self._arrived.append(body)
        self._change.set()

    def _on_empty(self, _: Method) -> None:
        self._empty = True
        self._change.set()

    async def _changed(self) -> None:
        self._change.clear()
        await self._change.wait()

    def _check(self) -> None:
        if self._closed.done():
            raise Unavailable(f"RabbitMQ closed the channel: {self._closed.result()!r}")
