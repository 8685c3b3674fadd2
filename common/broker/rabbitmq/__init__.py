"""The broker on RabbitMQ, over pika. Nothing outside this package imports pika.

Publishing and consuming have a connection each: under a memory alarm RabbitMQ stops reading from connections that
have published, acks included, so that with one for both the backlog that raised the alarm would never drain.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Set

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.spec import BasicProperties

from common.broker.port import Shelf, Subscription
from common.broker.rabbitmq.consumer import LANE_HEADER, REASON_HEADER, RabbitSubscription
from common.broker.rabbitmq.link import Link, parameters
from common.broker.rabbitmq.peek import peek_at
from common.broker.rabbitmq.publisher import Publisher
from common.broker.rabbitmq.publishing import PERSISTENT, properties_of
from common.broker.topology import Queue, Topology
from common.errors import Refused, Unavailable
from common.messages import Batch, Lane, encode_batch
from common.settings import Settings

log = logging.getLogger(__name__)

RETRY_PAUSE_S = 0.5


class RabbitBroker:
    """The broker of the settings. `declares`: it makes the lanes and the rejected queue where they are missing."""

    def __init__(self, settings: Settings, service: str, declares: bool = True) -> None:
        self._topology = Topology(settings.queue_name, settings.queue_type)
        self._lanes = {lane: self._topology.lane(lane).name for lane in Lane}
        self._peek_nodes = parameters(settings, f"{service} peek")
        standing = self._topology.standing if declares else []
        self._publisher = Publisher(parameters(settings, f"{service} publish"), standing)
        self._consumer = Link(
            parameters(settings, f"{service} consume"), self._on_consumer_up, self._on_refused
        )
        self._consuming = False
        self._subscriptions: list[RabbitSubscription] = []
        # The queues that were there when their depths were last asked for.
        self._found: Set[str] = frozenset()

    @property
    def connected(self) -> bool:
        """Whether its connections are up: that for publishing, and that for consuming where anybody does."""
        return self._publisher.connected and (self._consumer.is_up or not self._consuming)

    @property
    def server_version(self) -> str:
        """RabbitMQ's version, as it says of itself, once it is connected."""
        return self._publisher.server_version

    async def start(self) -> None:
        """Connects for publishing and declares the queues. Raises Unavailable or Refused."""
        await self._publisher.start()

    async def declare_retries(self, longest_s: float) -> None:
        """Declares the retry queues for delays up to `longest_s` now: RabbitMQ 3.10 can lose a quorum queue that is
        killed within its first second, and a first retry is no moment for that. Raises PublishFailed or Refused.
        """
        for queue in self._topology.retries(longest_s):
            await self._publisher.ensure(queue)

    async def declare_failed(self) -> None:
        """Declares the failed queue now, for the same reason. Raises PublishFailed or Refused."""
        await self._publisher.ensure(self._topology.failed)

    async def ready(self) -> None:
        await self._publisher.ready()

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        if after > 0:
            queue = self._topology.retry(lane, after)
            return asyncio.ensure_future(
                self._ensure_and_publish(queue, encode_batch(batch), properties_of(batch.message_id))
            )
        return self._publisher.publish_batch(self._lanes[lane], encode_batch(batch), batch.message_id)

    def keep(self, batch: Batch, lane: Lane) -> "asyncio.Future[None]":
        body, properties = encode_batch(batch), properties_of(batch.message_id)
        properties.headers = {LANE_HEADER: lane.value}
        return asyncio.ensure_future(self._ensure_and_publish(self._topology.failed, body, properties))

    async def subscribe(self, queue: Lane | Shelf, prefetch: int) -> Subscription:
        subscription = RabbitSubscription(queue, self._topology.of(queue), prefetch, self)
        self._subscriptions.append(subscription)
        if not self._consuming:
            self._consuming = True
            await self._consumer.start()
        else:
            with contextlib.suppress(Unavailable):  # then the link attaches it, once it is back
                await subscription.attach(self._consumer.connection)
        return subscription

    async def publish_rejected(self, body: bytes, reason: str) -> None:
        """Puts a body into the rejected queue, with the reason in the header `x-reason`. Raises PublishFailed."""
        properties = BasicProperties(delivery_mode=PERSISTENT, headers={REASON_HEADER: reason})
        await self._publisher.publish(self._topology.rejected.name, body, properties)

    def peek(self) -> AsyncGenerator[tuple[str, bytes], None]:
        # Retry queues first: what moves on from one is then found in its lane.
        retries = [queue.name for queue in self._topology.retries()]
        return peek_at(self._peek_nodes, if_there=retries, needed=list(self._lanes.values()))

    async def consumers(self) -> int:
        found = await self._publisher.look_at([self._topology.lane(lane) for lane in Lane])
        return sum(status.consumers for status in found.values())

    async def depths(self, anew: bool = True) -> dict[str, int]:
        standing, failed = self._topology.standing, self._topology.failed
        made_when_used = [failed, *self._topology.retries()]
        if not anew:
            made_when_used = [queue for queue in made_when_used if queue.name in self._found]
        found = await self._publisher.look_at([*standing, *made_when_used])
        self._found = found.keys()
        depths = dict.fromkeys((queue.name for queue in [*standing, failed]), 0)
        return depths | {name: status.waiting for name, status in found.items()}

    async def delete_queues(self) -> None:
        """Deletes all queues of this name, with what is in them. Raises Unavailable or Refused."""
        always = [*self._topology.standing, self._topology.failed]
        await self._publisher.delete([*always, *self._topology.retries()])

    async def close(self) -> None:
        for subscription in self._subscriptions:
            subscription.flush()
        if self._consuming:
            await self._consumer.stop()
        await self._publisher.stop()

    async def _on_consumer_up(self, connection: AsyncioConnection) -> None:
        for subscription in self._subscriptions:
            await subscription.attach(connection)

    def _on_refused(self, refused: Refused) -> None:
        for subscription in self._subscriptions:
            subscription.fail(refused)

    async def _ensure_and_publish(self, queue: Queue, body: bytes, properties: BasicProperties) -> None:
        await self._publisher.ensure(queue)
        await self._publisher.publish(queue.name, body, properties)


async def connect_broker(
    settings: Settings, service: str, connect_timeout_s: float, declares: bool = True
) -> RabbitBroker:
    """The broker of the settings, connected. Raises Unavailable after the timeout, Refused at once."""
    deadline = asyncio.get_running_loop().time() + connect_timeout_s
    broker = RabbitBroker(settings, service, declares)
    said = False
    while True:
        try:
            await broker.start()
            return broker
        except Refused:
            await broker.close()
            raise
        except Unavailable as error:
            if asyncio.get_running_loop().time() + RETRY_PAUSE_S >= deadline:
                await broker.close()
                raise Unavailable(
                    f"{error} (tried for {connect_timeout_s:g} s): is it running? (RABBITMQ_HOST, RABBITMQ_PORT)"
                ) from None
            if not said:
                log.warning("broker_unreachable", extra={"reason": str(error)})
                said = True
        await asyncio.sleep(RETRY_PAUSE_S)
