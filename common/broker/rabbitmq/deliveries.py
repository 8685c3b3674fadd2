"""Deliveries of one channel, and their acks."""

import asyncio
import itertools
from dataclasses import dataclass
from typing import Any, Protocol

from pika.channel import Channel

from common.broker.port import ParkedQueue
from common.errors import StaleDelivery
from common.messages import Lane

LANE_HEADER = "x-lane"
REASON_HEADER = "x-reason"


class Acks:
    """The unacked deliveries of one channel. Combines the acks of one turn of the loop into few frames.

    Attributes:
        channel: The channel; None when it is closed.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel: Channel | None = channel
        # In order of arrival. Tags have gaps: pika gives back what arrives for a consumer that is being cancelled.
        self._unacked: dict[int, None] = {}
        self._acked: set[int] = set()
        self._scheduled = False

    def expect(self, tag: int) -> None:
        """Notes a delivery that is to be acked or released."""
        self._unacked[tag] = None

    def ack(self, tag: int) -> None:
        """Acks a delivery at the end of this turn of the loop."""
        self._acked.add(tag)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def release(self, tag: int) -> None:
        """Gives a delivery back to the queue."""
        del self._unacked[tag]
        if self.channel is not None and self.channel.is_open:
            self.channel.basic_nack(tag, multiple=False, requeue=True)

    def flush(self) -> None:
        """Sends the acks: one frame for the oldest deliveries without a gap, and one for each of the others."""
        self._scheduled = False
        acked, self._acked = self._acked, set()
        channel = self.channel
        if channel is None or not channel.is_open:
            return
        oldest = list(itertools.takewhile(acked.__contains__, self._unacked))
        if oldest:
            channel.basic_ack(oldest[-1], multiple=True)
        for tag in acked.difference(oldest):
            channel.basic_ack(tag)
        for tag in acked:
            del self._unacked[tag]


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
