"""Deliveries of one channel, and their acks."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pika.channel import Channel

from common.broker.port import ParkedQueue
from common.errors import StaleDelivery
from common.messages import Lane

LANE_HEADER = "x-lane"
REASON_HEADER = "x-reason"


@dataclass(slots=True, eq=False)
class Consumer:
    """One consumer of a channel.

    Attributes:
        prefetch: How many unacked deliveries RabbitMQ allows it.
        tag: Its consumer tag.
        unacked: How many deliveries came to it and are not acked or released.
        heard: Whether a delivery came to it since it was last looked at.
    """

    prefetch: int
    tag: str = ""
    unacked: int = 0
    heard: bool = False


class Acks:
    """The consumers of one channel, and their unacked deliveries.

    Combines the acks of one turn of the loop into few frames.

    Attributes:
        channel: The channel; None when it is closed.
        consumers: Its consumers.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel: Channel | None = channel
        self.consumers: list[Consumer] = []
        # In order of arrival. Tags have gaps: pika gives back what arrives for a consumer that is being cancelled.
        self._unacked: dict[int, Consumer] = {}
        self._acked: set[int] = set()
        self._scheduled = False
        self._on_acked: Callable[[], None] | None = None

    @property
    def prefetch(self) -> int:
        """The prefetch of all consumers together."""
        return sum(consumer.prefetch for consumer in self.consumers)

    @property
    def unacked(self) -> int:
        """How many deliveries are neither acked nor released."""
        return len(self._unacked)

    @property
    def open_channel(self) -> Channel | None:
        """The channel, if frames can be sent over it."""
        return self.channel if self.channel is not None and self.channel.is_open else None

    def expect(self, tag: int, consumer: Consumer) -> None:
        """Notes a delivery that is to be acked or released."""
        self._unacked[tag] = consumer
        consumer.unacked += 1
        consumer.heard = True

    def ack(self, tag: int) -> None:
        """Acks a delivery at the end of this turn of the loop."""
        self._acked.add(tag)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def release(self, tag: int) -> None:
        """Gives a delivery back to the queue."""
        self._forget(tag)
        if (channel := self.open_channel) is not None:
            channel.basic_nack(tag, multiple=False, requeue=True)
            self._close_when_done(channel)

    def flush(self) -> None:
        """Sends the acks: one frame for the oldest deliveries without a gap, and one for each of the others."""
        self._scheduled = False
        acked, self._acked = self._acked, set()
        if (channel := self.open_channel) is None:
            return
        oldest = list(itertools.takewhile(acked.__contains__, self._unacked))
        if oldest:
            channel.basic_ack(oldest[-1], multiple=True)
        for tag in acked.difference(oldest):
            channel.basic_ack(tag)
        for tag in acked:
            self._forget(tag)
        self._close_when_done(channel)

    def cancel(self) -> None:
        """Cancels the consumers."""
        canceled, self.consumers = self.consumers, []
        if (channel := self.open_channel) is None:
            return
        for consumer in canceled:
            channel.basic_cancel(consumer.tag)
            channel.connection.direct.pop((channel.channel_number, consumer.tag.encode()), None)

    def retire(self, on_acked: Callable[[], None]) -> None:
        """Cancels the consumers, and closes the channel once no delivery of it is unacked.

        Args:
            on_acked: Called when deliveries were acked or released.
        """
        self.cancel()
        self._on_acked = on_acked
        if (channel := self.open_channel) is not None:
            self._close_when_done(channel)

    def _forget(self, tag: int) -> None:
        self._unacked.pop(tag).unacked -= 1

    def _close_when_done(self, channel: Channel) -> None:
        if self._on_acked is None:
            return
        if not self._unacked:
            channel.close()
        self._on_acked()


class Rejects(Protocol):
    """What moves a body to the rejected queue."""

    async def publish_rejected(self, body: bytes, reason: str) -> None:
        """Publishes it there, confirmed. Raises PublishFailed."""


@dataclass(slots=True, eq=False)
class RabbitDelivery:
    """One unacked body (common/broker/port.py)."""

    body: bytes
    lane: Lane
    reason: str
    redelivered: bool
    _tag: int
    _acks: Acks
    _rejects: Rejects
    _settled: bool = False

    @property
    def stale(self) -> bool:
        return self._acks.channel is None

    def ack(self) -> None:
        self._settle()
        self._acks.ack(self._tag)

    def release(self) -> None:
        self._settle()
        self._acks.release(self._tag)

    async def reject(self, reason: str) -> None:
        self._check()
        await self._rejects.publish_rejected(self.body, reason)
        self.ack()

    def _check(self) -> None:
        if self._settled:
            raise RuntimeError("this delivery is acked, rejected or released already")
        if self.stale:
            raise StaleDelivery("the connection of this delivery is gone")

    def _settle(self) -> None:
        self._check()
        self._settled = True


def lane_of(source: Lane | ParkedQueue, headers: dict[str, Any]) -> Lane:
    """The lane of a body: the one it came through, or the one it was parked with."""
    if isinstance(source, Lane):
        return source
    urgent = source is ParkedQueue.FAILED and headers.get(LANE_HEADER) == Lane.URGENT
    return Lane.URGENT if urgent else Lane.BULK


def reason_of(source: Lane | ParkedQueue, headers: dict[str, Any]) -> str:
    """Why a body was rejected; empty if it was not."""
    if source is not ParkedQueue.REJECTED:
        return ""
    if REASON_HEADER in headers:
        return str(headers[REASON_HEADER])
    # RabbitMQ dead-lettered it. The latest death is the first one; the others are exits from retry queues.
    match headers.get("x-death"):
        case [{"reason": str(reason)}, *_]:
            return reason.replace("_", " ")
    return ""
