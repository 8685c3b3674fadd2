"""Reads what waits in queues and takes nothing: what was read is given back when the connection closes."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterable

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import AMQPError
from pika.frame import Method
from pika.spec import Basic, BasicProperties

from common.broker.rabbitmq.link import Link, look_at, open_channel
from common.errors import Unavailable
from common.messages import MAX_BODY_BYTES

# What is asked for at once, by the size of the bodies seen so far, and never more than so many.
IN_HAND_BYTES = 16 * 1024 * 1024
IN_HAND_BODIES = 1000
# Whoever was asked for a body and is silent for so long has none.
SILENCE_S = 5.0


async def peek_at(
    nodes: list[pika.ConnectionParameters], if_there: list[str], needed: list[str]
) -> AsyncGenerator[tuple[str, bytes], None]:
    """The bodies of the queues, each with its queue, over a connection of its own.

    Raises Refused; and Unavailable, also if one that is needed is missing: RabbitMQ says so, too, of a classic queue
    whose node is down, and what is in that must not pass for lost.
    """
    link = Link(nodes, _as_it_is)
    try:
        await link.start()
        for queue in (*if_there, *needed):
            async for body in _bodies(link.connection, queue, queue in needed):
                yield queue, body
    except AMQPError as error:
        raise Unavailable(f"RabbitMQ is gone: {error!r}") from None
    finally:
        await link.stop()


async def _as_it_is(_: AsyncioConnection) -> None:
    return


async def _bodies(connection: AsyncioConnection, queue: str, needed: bool) -> AsyncGenerator[bytes, None]:
    """All that waits in a queue, held over a channel that stays open."""
    channel, closed = await open_channel(connection)
    reader = _Reader(channel, closed, queue)
    largest = MAX_BODY_BYTES
    while True:
        status = await look_at(channel, closed, queue)
        if status is None and needed:
            raise Unavailable(f"RabbitMQ has no queue {queue} now")
        if status is None:
            break
        wanted = min(status.waiting, IN_HAND_BODIES, max(1, IN_HAND_BYTES // largest))
        if wanted:
            reader.consume(wanted)
        largest = 1
        while wanted and (body := await reader.next()) is not None:
            wanted -= 1
            largest = max(largest, len(body))
            yield body
        if status.waiting and not wanted:
            continue
        # Nothing waits, or so it seems: RabbitMQ may have been too busy to count. This answer is waited for.
        body = await reader.get()
        if body is None:
            break
        yield body
    for body in reader.rest():
        yield body


class _Reader:
    """Takes bodies of one queue in hand over one channel.

    A consumer without a limit gets 2000 bodies of a quorum queue at most, and 65,535 is the highest limit there is.
    So there is a further consumer for each window, which also keeps what is in memory small.
    """

    def __init__(self, channel: Channel, closed: "asyncio.Future[BaseException]", queue: str) -> None:
        self._channel = channel
        self._closed = closed
        self._queue = queue
        self._came: deque[bytes] = deque()
        self._change = asyncio.Event()
        self._empty = False
        channel.add_callback(self._on_empty, [Basic.GetEmpty])
        closed.add_done_callback(lambda _: self._change.set())

    def consume(self, count: int) -> None:
        """Asks for so many more."""
        self._channel.basic_qos(prefetch_count=count)
        self._channel.basic_consume(self._queue, self._on_body)

    async def next(self) -> bytes | None:
        """The next that was asked for; None if there was none for SILENCE_S. Raises Unavailable."""
        if not self._came:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_S):
                    await self._changed()
        self._check()
        return self._came.popleft() if self._came else None

    async def get(self) -> bytes | None:
        """Asks for one, however long the answer takes; None if there is none. Raises Unavailable."""
        self._empty = False
        self._channel.basic_get(self._queue, self._on_body)
        while not (self._came or self._empty):
            await self._changed()
            self._check()
        return self._came.popleft() if self._came else None

    def rest(self) -> Iterable[bytes]:
        """What came after it was waited for."""
        return self._came

    def _on_body(
        self, _: Channel, __: Basic.Deliver | Basic.GetOk, ___: BasicProperties, body: bytes
    ) -> None:
        self._came.append(body)
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
