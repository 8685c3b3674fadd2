"""The queues as data: their names, their arguments, and the delays of the retry queues."""

import math
from dataclasses import dataclass, field
from typing import Any

from common.broker.port import ParkedQueue
from common.messages import Lane

# 3.x drops at the first redelivery with -1 or 0, and the default of 20 in 4.x drops after some restarts
# (docs/adr/0001-queue-arguments.md).
DELIVERY_LIMIT = 1_000_000

# Delays of the retry queues in seconds: powers of two from 1/8 s to 512 s.
RETRY_RUNGS_S = tuple(2.0**k for k in range(-3, 10))


@dataclass(frozen=True)
class Queue:
    """A durable queue, and the arguments with which it is declared."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Topology:
    """All queues that belong to one queue name.

    Attributes:
        name: The queue name, QUEUE_NAME.
        queue_type: The type of the lanes and of the parked queues, QUEUE_TYPE.
    """

    name: str
    queue_type: str = "quorum"

    def lane(self, lane: Lane) -> Queue:
        """The queue that senders consume."""
        name = self.name if lane is Lane.BULK else f"{self.name}.urgent"
        if self.queue_type == "classic":
            return Queue(name, {"x-queue-type": "classic"})
        return Queue(
            name,
            {
                "x-queue-type": "quorum",
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self.rejected.name,
            },
        )

    @property
    def rejected(self) -> Queue:
        """The queue of bodies that are no batch."""
        return self.parked(ParkedQueue.REJECTED)

    @property
    def failed(self) -> Queue:
        """The queue of batches of failed messages."""
        return self.parked(ParkedQueue.FAILED)

    def parked(self, queue: ParkedQueue) -> Queue:
        """A parked queue. Reading through it releases every body, which counts as a delivery: none may be dropped."""
        arguments: dict[str, Any] = {"x-queue-type": self.queue_type}
        if self.queue_type != "classic":
            arguments["x-delivery-limit"] = DELIVERY_LIMIT
        return Queue(f"{self.name}.{queue}", arguments)

    def of(self, queue: Lane | ParkedQueue) -> Queue:
        """The queue of a lane, or a parked queue."""
        return self.lane(queue) if isinstance(queue, Lane) else self.parked(queue)

    @property
    def standing(self) -> list[Queue]:
        """The queues that are declared on every new connection. The others are declared when first used."""
        return [self.rejected, *(self.lane(lane) for lane in Lane)]

    def retries(self, longest_s: float = RETRY_RUNGS_S[-1]) -> list[Queue]:
        """The retry queues of both lanes for delays up to `longest_s`; all of them unless given."""
        rungs = [rung for rung in RETRY_RUNGS_S if rung < longest_s] + [longest_s]
        return [self.retry(lane, rung) for lane in Lane for rung in rungs]

    def retry(self, lane: Lane, after: float) -> Queue:
        """The queue in which a batch waits `after` seconds, rounded up to a rung, before it joins its lane.

        Each delay has a queue, since a message's TTL takes effect only at the head of its queue. Always a quorum queue
        with at-least-once dead-lettering: the default strategy may lose what moves between the queues.
        """
        rung = next((rung for rung in RETRY_RUNGS_S if rung >= after), RETRY_RUNGS_S[-1])
        milliseconds = math.ceil(rung * 1000)
        return Queue(
            f"{self.name}.retry.{lane}.{milliseconds}ms",
            {
                "x-queue-type": "quorum",
                "x-message-ttl": milliseconds,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self.lane(lane).name,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
                "x-delivery-limit": DELIVERY_LIMIT,
            },
        )
