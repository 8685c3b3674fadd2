"""Consumes one lane or parked queue over a channel of its own, with manual acks."""

import asyncio
from functools import partial

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import AMQPError, ChannelClosedByClient
from pika.spec import Basic, BasicProperties

from common.broker.port import Delivery, ParkedQueue
from common.broker.rabbitmq.deliveries import Acks, Consumer, RabbitDelivery, Rejects, lane_of, reason_of
from common.broker.rabbitmq.link import TIMING, Timing
from common.broker.rabbitmq.opening import close_with_its_channel, open_channel
from common.broker.rabbitmq.queues import declare
from common.broker.rabbitmq.refusals import channel_error, words_of
from common.broker.topology import Queue
from common.errors import Refused, RefusedForNow
from common.messages import Lane

# The most that AMQP allows one consumer. A larger prefetch takes several consumers.
LARGEST_PREFETCH = 65_535

# No further channel is opened while this many older ones have unacked deliveries.
MOST_RETIRED = 64

# While the deliveries of older channels are acked, at most this many consumers take their place.
MOST_TOP_UPS = 8


class RabbitSubscription:
    """One subscriber. `attach` moves it to a new connection whenever the old one was lost.

    A consumer keeps the prefetch that it began with. A raise adds a consumer to the channel. A fall opens another
    channel, whose prefetch grows as the deliveries of the old one are acked; then the old one closes.

    RabbitMQ notes deliveries before it sends them. What the dead leader of a quorum queue had noted and not sent, the
    next leader sends only with a further delivery to the same consumer: never, if that was canceled or has no prefetch
    left. Such deliveries return to the queue when their channel closes. So a fall closes the old channel, and a
    consumer that could take more and gets nothing is renewed in the same way.
    """

    def __init__(
        self,
        source: Lane | ParkedQueue,
        queue: Queue,
        prefetch: int,
        rejects: Rejects,
        *,
        largest_prefetch: int = LARGEST_PREFETCH,
        timing: Timing = TIMING,
    ) -> None:
        self._source = source
        self._queue = queue
        self._rejects = rejects
        self._prefetch = max(1, prefetch)
        self._largest_prefetch = largest_prefetch
        self._timing = timing
        self._silence_s = timing.silence_s
        self._look: asyncio.TimerHandle | None = None
        self._acks: Acks | None = None
        self._retired: set[Acks] = set()
        self._renewing = False
        self._arrived: list[Delivery] = []
        self._arrival = asyncio.Event()
        self._closed = False
        self._refused: Refused | None = None

    async def attach(self, connection: AsyncioConnection) -> None:
        """Consumes over a new connection. Raises Unavailable or Refused."""
        if self._closed:
            return
        over = await open_channel(connection)
        over = await declare(over, self._queue)
        self._move_to(over.channel)
        self._look_later()

    async def take(self) -> list[Delivery]:
        while not self._arrived:
            if self._refused is not None:
                raise self._refused
            self._arrival.clear()
            await self._arrival.wait()
        taken, self._arrived = self._arrived, []
        return taken

    def set_prefetch(self, prefetch: int) -> None:
        self._prefetch = max(1, prefetch)
        acks = self._acks
        if acks is None or acks.open_channel is None or self._closed or self._renewing:
            return
        if self._prefetch >= acks.prefetch:
            self._top_up()
        elif len(self._retired) < MOST_RETIRED:
            acks.cancel()
            self._renew(acks.open_channel)

    async def close(self) -> None:
        self._closed = True
        if self._look is not None:
            self._look.cancel()
        if self._acks is not None:
            self._acks.retire(lambda: None)
        arrived, self._arrived = self._arrived, []
        for delivery in arrived:
            if not delivery.stale:
                delivery.release()

    def fail(self, refused: Refused) -> None:
        """There will be no further connection: `take` raises the refusal."""
        self._refused = refused
        self._arrival.set()

    def flush(self) -> None:
        """Sends the acks that are gathered, before the connection closes."""
        for acks in (self._acks, *self._retired):
            if acks is not None:
                acks.flush()

    def _renew(self, channel: Channel) -> None:
        """Opens another channel, to which the subscription then moves."""
        self._renewing = True
        try:
            channel.connection.channel(on_open_callback=self._move_to)
        except AMQPError as error:  # it is closing, or has no channel left: `attach` follows
            close_with_its_channel(channel, f"no other channel can be opened: {error!r}")

    def _move_to(self, channel: Channel) -> None:
        """Consumes over this channel, and no longer over the present one."""
        self._renewing = False
        if self._closed:  # in the meantime
            channel.close()
            return
        acks, before = Acks(channel), self._acks
        channel.add_on_close_callback(lambda _, reason: self._on_channel_closed(acks, reason))
        # RabbitMQ gives no reason for a cancel. Connect again.
        why = (
            f"RabbitMQ canceled the consumer of {self._queue.name}: the queue was deleted, its node is gone,"
            " or a delivery was not acked within consumer_timeout"
        )
        channel.add_on_cancel_callback(lambda _: close_with_its_channel(channel, why))
        self._acks = acks
        if before is not None:
            self._retired.add(before)
            before.retire(self._top_up)
        self._top_up()

    def _top_up(self) -> None:
        """Consumes with what is left of the prefetch, in few consumers: RabbitMQ looks at each of them."""
        acks, of_others = self._acks, sum(acks.unacked for acks in self._retired)
        if acks is None or acks.open_channel is None or self._closed or self._renewing:
            return
        left = self._prefetch - acks.prefetch - of_others
        if (
            not acks.consumers
        ):  # the queue always has one: an audit takes a queue without consumers to be at rest
            self._consume(acks, acks.open_channel, max(1, left))
        elif left > 0 and (not of_others or left >= self._prefetch / MOST_TOP_UPS):
            self._consume(acks, acks.open_channel, left)

    def _consume(self, acks: Acks, channel: Channel, prefetch: int) -> None:
        """Adds consumers with this prefetch together."""
        while prefetch > 0:
            consumer = Consumer(min(prefetch, self._largest_prefetch))
            channel.basic_qos(prefetch_count=consumer.prefetch)
            on_delivery = partial(self._on_delivery, acks, consumer)
            consumer.tag = channel.basic_consume(self._queue.name, on_delivery)
            acks.consumers.append(consumer)
            if isinstance(self._source, Lane):  # the bodies of a lane need no headers
                key = (channel.channel_number, consumer.tag.encode())
                channel.connection.direct[key] = partial(self._on_body, acks, consumer)
            prefetch -= consumer.prefetch

    def _look_later(self) -> None:
        if self._look is not None:
            self._look.cancel()
        if not self._closed:
            self._look = asyncio.get_running_loop().call_later(self._silence_s, self._look_for_silence)

    def _look_for_silence(self) -> None:
        """Renews the consumers if one of them could take more and got nothing since the last look."""
        acks = self._acks
        if acks is None or acks.open_channel is None:
            return  # `attach` follows
        consumers = acks.consumers
        silent = any(consumer.unacked < consumer.prefetch and not consumer.heard for consumer in consumers)
        if any(consumer.heard for consumer in consumers):
            self._silence_s = self._timing.silence_s
        elif silent:
            self._silence_s = min(2 * self._silence_s, self._timing.longest_silence_s)
        for consumer in consumers:
            consumer.heard = False
        if silent and not self._renewing and len(self._retired) < MOST_RETIRED:
            self._renew(acks.open_channel)
        self._look_later()

    def _on_delivery(
        self,
        acks: Acks,
        consumer: Consumer,
        _: Channel,
        method: Basic.Deliver,
        properties: BasicProperties,
        body: bytes,
    ) -> None:
        headers = properties.headers or {}
        delivery = RabbitDelivery(
            body=body,
            lane=lane_of(self._source, headers),
            reason=reason_of(self._source, headers),
            redelivered=method.redelivered,
            _tag=method.delivery_tag,
            _acks=acks,
            _rejects=self._rejects,
        )
        acks.expect(method.delivery_tag, consumer)
        self._arrive(delivery)

    def _on_body(self, acks: Acks, consumer: Consumer, tag: int, redelivered: bool, body: bytes) -> None:
        """A delivery of a lane, by the short cut."""
        assert isinstance(self._source, Lane)
        delivery = RabbitDelivery(
            body=body,
            lane=self._source,
            reason="",
            redelivered=redelivered,
            _tag=tag,
            _acks=acks,
            _rejects=self._rejects,
        )
        acks.expect(tag, consumer)
        self._arrive(delivery)

    def _arrive(self, delivery: Delivery) -> None:
        self._arrived.append(delivery)
        self._arrival.set()

    def _on_channel_closed(self, acks: Acks, reason: BaseException) -> None:
        channel, acks.channel = acks.channel, None  # which makes its deliveries stale
        self._retired.discard(acks)
        if acks is self._acks:
            self._acks = None
        self._arrived = [delivery for delivery in self._arrived if not delivery.stale]
        if channel is None or isinstance(reason, ChannelClosedByClient):
            return
        error = channel_error(reason, f"consume queue {self._queue.name}")
        if isinstance(error, Refused) and not isinstance(error, RefusedForNow):
            self.fail(error)
        close_with_its_channel(channel, f"the channel of {self._queue.name}: {words_of(reason)}")
