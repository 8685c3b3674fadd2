"""Declares, inspects and deletes queues, each call over a channel that is open."""

import asyncio
from dataclasses import dataclass
from typing import Any

from pika.exceptions import AMQPError, ChannelClosedByBroker
from pika.frame import Method
from pika.spec import ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED

from common.broker.rabbitmq.opening import OpenChannel, open_channel
from common.broker.rabbitmq.refusals import channel_error, gone, words_of
from common.broker.topology import Queue
from common.errors import Refused, Unavailable


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """How many bodies wait in a queue, and how many consumers it has.

    Both are 0 for a quorum queue that does not answer RabbitMQ within 250 ms (rabbit_quorum_queue:stat).
    """

    waiting: int
    consumers: int


async def declare(over: OpenChannel, queue: Queue) -> OpenChannel:
    """Declares a durable queue, or finds it there if the user has no permission to declare it.

    RabbitMQ 4.3 does not let such a user find it. It is then taken to be there: if not, a publish to it is returned.
    Returns an open channel: `over`, or a new one, because RabbitMQ closes the channel of a refused declare.

    Raises:
        Refused: The queue exists with other arguments, for one.
        Unavailable: RabbitMQ is away, or the queue is not there yet and the user may not declare it.
    """
    answer = await _declare(over, queue.name, durable=True, arguments=queue.arguments)
    if isinstance(answer, QueueStatus):
        return over
    if _code(answer) == ACCESS_REFUSED:
        over = await open_channel(over.channel.connection)
        try:
            status = await status_of(over, queue.name)
        except Refused:
            return await open_channel(over.channel.connection)
        if status is None:
            raise Unavailable(
                f"there is no queue {queue.name} yet: a sender declares it ({words_of(answer)})"
            )
        return over
    if _code(answer) == PRECONDITION_FAILED and "inequivalent arg" in words_of(answer):
        raise Refused(
            f"queue {queue.name} exists with other arguments than it gets with QUEUE_TYPE="
            f"{queue.arguments['x-queue-type']}: set QUEUE_TYPE back if it was changed, else empty and delete the queue"
            f" (an older version made it), or choose another QUEUE_NAME; RabbitMQ says: {words_of(answer)}"
        )
    raise channel_error(answer, f"declare queue {queue.name}")


async def status_of(over: OpenChannel, queue: str) -> QueueStatus | None:
    """The status of a queue. None, and the channel is closed, if there is none. Raises Refused or Unavailable."""
    answer = await _declare(over, queue, passive=True)
    if isinstance(answer, QueueStatus):
        return answer
    if _code(answer) == NOT_FOUND:
        return None
    raise channel_error(answer, f"inspect queue {queue}")


async def delete(over: OpenChannel, queue: str) -> None:
    """Deletes a queue with its bodies, if it exists. Raises Refused or Unavailable."""
    deleted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_deleted(_: Method) -> None:
        if not deleted.done():
            deleted.set_result(None)

    try:
        over.channel.queue_delete(queue, callback=on_deleted)
    except AMQPError as error:
        raise gone(error) from None
    if not await _answered(deleted, over):
        raise channel_error(over.closed.result(), f"delete queue {queue}")


async def _declare(over: OpenChannel, queue: str, **how: Any) -> QueueStatus | BaseException:
    """The status of the queue, or why RabbitMQ closed the channel."""
    declared: asyncio.Future[QueueStatus] = asyncio.get_running_loop().create_future()

    def on_declared(frame: Method) -> None:
        if not declared.done():
            declared.set_result(QueueStatus(frame.method.message_count, frame.method.consumer_count))

    try:
        over.channel.queue_declare(queue, callback=on_declared, **how)
    except AMQPError as error:
        raise gone(error) from None
    return declared.result() if await _answered(declared, over) else over.closed.result()


async def _answered(answer: "asyncio.Future[Any]", over: OpenChannel) -> bool:
    """Whether an answer came before the channel was closed."""
    either: list[asyncio.Future[Any]] = [answer, over.closed]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    return answer.done()


def _code(reason: BaseException) -> int | None:
    """The code with which RabbitMQ closed a channel; None if something else closed it."""
    return reason.reply_code if isinstance(reason, ChannelClosedByBroker) else None
