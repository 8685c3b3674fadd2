"""The broker on RabbitMQ, over pika. Nothing outside this package imports pika.

Publishing and consuming have a connection each. Under a memory alarm RabbitMQ stops reading from connections that have
published, acks included: with one connection for both, the backlog that raised the alarm would never drain.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Set

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.spec import PERSISTENT_DELIVERY_MODE, BasicProperties

from common.broker.port import ParkedQueue, Subscription
from common.broker.rabbitmq.consumer import RabbitSubscription
from common.broker.rabbitmq.deliveries import LANE_HEADER, REASON_HEADER
from common.broker.rabbitmq.direct import properties_of
from common.broker.rabbitmq.link import TIMING, Link, Timing, parameters
from common.broker.rabbitmq.peek import peek_at
from common.broker.rabbitmq.publisher import Publisher
from common.broker.topology import Queue, Topology
from common.errors import Refused, Unavailable
from common.messages import Batch, Lane, encode_batch
from common.settings import Settings

log = logging.getLogger(__name__)

CONNECT_PAUSE_S = 0.5


class RabbitBroker:
    """The broker of the settings. With `declares`, it declares the lanes and the rejected queue."""

    def __init__(
        self, settings: Settings, service: str, declares: bool = True, timing: Timing = TIMING
    ) -> None:
        self._topology = Topology(settings.queue_name, settings.queue_type)
        self._lanes = {lane: self._topology.lane(lane).name for lane in Lane}
        self._peek_nodes = parameters(settings, f"{service} peek")
        standing = self._topology.standing if declares else []
        self._publisher = Publisher(parameters(settings, f"{service} publish"), standing, timing)
        consume_nodes = parameters(settings, f"{service} consume")
        self._consumer = Link(consume_nodes, self._on_consumer_up, self._on_refused, timing=timing)
        self._consuming = False
        self._subscriptions: list[RabbitSubscription] = []
        # The queues that existed when the depths were last asked for.
        self._existing: Set[str] = frozenset()

    @property
    def connected(self) -> bool:
        """Whether its connections are up: the one for publishing and, if it has subscribers, the one for consuming."""
        return self._publisher.connected and (self._consumer.is_up or not self._consuming)

    @property
    def refusal(self) -> str:
        """Why RabbitMQ refuses this client, once that is more than a moment; empty if it does not."""
        refused = self._publisher.refusal or self._consumer.refusal
        return str(refused) if refused else ""

    @property
    def server_version(self) -> str:
        """The version of RabbitMQ, once it is connected."""
        return self._publisher.server_version

    async def start(self, within_s: float = TIMING.handshake_s) -> None:
        """Connects for publishing and declares the queues. Raises Unavailable or Refused.

        To open the connection may take `within_s` seconds.
        """
        await self._publisher.start(within_s)

    async def declare_retries(self, longest_s: float) -> None:
        """Declares the retry queues for delays up to `longest_s`. Raises PublishFailed or Refused.

        A sender does so when it starts: RabbitMQ 3.10 can lose a quorum queue that is killed within its first second.
        """
        for queue in self._topology.retries(longest_s):
            await self._publisher.ensure(queue)

    async def declare_failed(self) -> None:
        """Declares the failed queue, for the same reason. Raises PublishFailed or Refused."""
        await self._publisher.ensure(self._topology.failed)

    async def ready(self) -> None:
        await self._publisher.ready()

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        body = encode_batch(batch)
        if after <= 0:
            return self._publisher.publish_batch(self._lanes[lane], body, batch.message_id)
        return self._publish_to(self._topology.retry(lane, after), body, properties_of(batch.message_id))

    def park(self, batch: Batch, lane: Lane) -> "asyncio.Future[None]":
        properties = properties_of(batch.message_id)
        properties.headers = {LANE_HEADER: lane.value}
        return self._publish_to(self._topology.failed, encode_batch(batch), properties)

    async def subscribe(self, queue: Lane | ParkedQueue, prefetch: int) -> Subscription:
        subscription = RabbitSubscription(queue, self._topology.of(queue), prefetch, self)
        self._subscriptions.append(subscription)
        if not self._consuming:
            self._consuming = True
            await self._consumer.start()
        else:
            # Where the connection is lost, the link attaches the subscription once it is back.
            with contextlib.suppress(Unavailable):
                await subscription.attach(self._consumer.connection)
        return subscription

    async def publish_rejected(self, body: bytes, reason: str) -> None:
        """Publishes a body to the rejected queue, with the reason in the header `x-reason`. Raises PublishFailed."""
        properties = BasicProperties(delivery_mode=PERSISTENT_DELIVERY_MODE, headers={REASON_HEADER: reason})
        await self._publisher.publish(self._topology.rejected.name, body, properties)

    def peek(self) -> AsyncGenerator[tuple[str, bytes], None]:
        # A body that leaves a retry queue is then found in its lane, and one that leaves that, in the rejected queue.
        lanes, retries = self._lanes.values(), [queue.name for queue in self._topology.retries()]
        queues = [*retries, *lanes, self._topology.rejected.name]
        return peek_at(self._peek_nodes, queues=queues, needed=lanes)

    async def rejected(self) -> int | None:
        """How many bodies wait in the rejected queue; None if there is no such queue. Raises Unavailable."""
        found = await self._publisher.statuses([self._topology.rejected])
        return next((status.waiting for status in found.values()), None)

    async def consumers(self) -> int:
        found = await self._publisher.statuses([self._topology.lane(lane) for lane in Lane])
        return sum(status.consumers for status in found.values())

    async def depths(self, refresh: bool = True) -> dict[str, int]:
        standing, failed = self._topology.standing, self._topology.failed
        declared_when_used = [failed, *self._topology.retries()]
        if not refresh:
            declared_when_used = [queue for queue in declared_when_used if queue.name in self._existing]
        found = await self._publisher.statuses([*standing, *declared_when_used])
        self._existing = found.keys()
        depths = dict.fromkeys((queue.name for queue in [*standing, failed]), 0)
        return depths | {name: status.waiting for name, status in found.items()}

    async def delete_queues(self) -> None:
        """Deletes all queues of this queue name, with their bodies. Raises Unavailable or Refused."""
        always = [*self._topology.standing, self._topology.failed]
        await self._publisher.delete([*always, *self._topology.retries()])

    async def close(self) -> None:
        for subscription in self._subscriptions:
            subscription.flush()
        if self._consuming:
            await self._consumer.stop()
        await self._publisher.stop()

    def _publish_to(self, queue: Queue, body: bytes, properties: BasicProperties) -> "asyncio.Future[None]":
        """Publishes to a queue that is declared when first used."""
        return asyncio.ensure_future(self._ensure_and_publish(queue, body, properties))

    async def _ensure_and_publish(self, queue: Queue, body: bytes, properties: BasicProperties) -> None:
        await self._publisher.ensure(queue)
        await self._publisher.publish(queue.name, body, properties)

    async def _on_consumer_up(self, connection: AsyncioConnection) -> None:
        for subscription in self._subscriptions:
            await subscription.attach(connection)

    def _on_refused(self, refused: Refused) -> None:
        for subscription in self._subscriptions:
            subscription.fail(refused)


async def connect_broker(
    settings: Settings, service: str, connect_timeout_s: float, declares: bool = True
) -> RabbitBroker:
    """The broker of the settings, connected. Raises Unavailable after the timeout, Refused at once."""
    broker = RabbitBroker(settings, service, declares)
    failure = f"RabbitMQ at {settings.rabbitmq_host}:{settings.rabbitmq_port} did not answer"
    try:
        # pika ends a handshake in time by itself, but not the look-up of a host name.
        async with asyncio.timeout(connect_timeout_s + CONNECT_PAUSE_S):
            await _start(broker, connect_timeout_s)
            return broker
    except (TimeoutError, Unavailable) as error:
        await broker.close()
        raise Unavailable(
            f"{str(error) or failure} (tried for {connect_timeout_s:g} s): is it running?"
            " (RABBITMQ_HOST, RABBITMQ_PORT)"
        ) from None
    except BaseException:
        await broker.close()
        raise


async def _start(broker: RabbitBroker, within_s: float) -> None:
    """Starts the broker. Logs the first failure."""
    clock, logged = asyncio.get_running_loop().time, False
    deadline_s = clock() + within_s
    while True:
        try:
            return await broker.start(deadline_s - clock())
        except Unavailable as error:
            if clock() + CONNECT_PAUSE_S >= deadline_s:
                raise
            if not logged:
                log.warning("broker_unreachable", extra={"reason": str(error)})
                logged = True
            await asyncio.sleep(CONNECT_PAUSE_S)
