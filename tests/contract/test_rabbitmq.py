"""What RabbitMQ alone can do wrong, and how it is said."""

import asyncio
import itertools
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pytest
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import NoFreeChannels

from common.broker.port import Delivery, ParkedQueue, Subscription
from common.broker.rabbitmq import RabbitBroker, connect_broker
from common.broker.rabbitmq.consumer import RabbitSubscription
from common.broker.rabbitmq.link import Timing, parameters
from common.broker.rabbitmq.opening import OpenChannel, open_channel, open_connection
from common.broker.rabbitmq.queues import QueueStatus, declare, status_of
from common.broker.topology import Queue, Topology
from common.errors import PublishFailed, Refused, Unavailable
from common.messages import Batch, Lane, Message
from tests.contract.benches import rabbit_settings
from tests.servers import RabbitServer
from tests.waiting import eventually

BATCH = Batch(run="r", messages=[Message(0, "+999123456789", "text")])


@asynccontextmanager
async def fresh_broker(server: RabbitServer, what: str) -> AsyncIterator[tuple[RabbitBroker, Topology]]:
    """A broker on queues of its own."""
    name = f"{what}-{secrets.token_hex(4)}"
    broker = await connect_broker(rabbit_settings(server, queue_name=name), "test", 10)
    yield broker, Topology(name)
    await broker.close()


async def test_a_queue_of_another_type_is_refused_by_name(rabbit_server: RabbitServer) -> None:
    """QUEUE_TYPE was changed: the error names the setting and the queue, and comes at once."""
    queue = f"mismatch-{secrets.token_hex(4)}"
    first = RabbitBroker(rabbit_settings(rabbit_server, queue_name=queue, queue_type="classic"), "test")
    await first.start()
    await first.close()
    with pytest.raises(
        Refused, match=rf"queue {queue}\S* .*QUEUE_TYPE=quorum: set QUEUE_TYPE back if it was changed"
    ):
        await connect_broker(
            rabbit_settings(rabbit_server, queue_name=queue, queue_type="quorum"), "test", 30
        )


async def test_a_queue_of_an_older_version_is_refused_by_name(rabbit_server: RabbitServer) -> None:
    """Its type is right and another argument is not: the error names the queue, and what to do about it."""
    name = f"older-{secrets.token_hex(4)}"
    settings = rabbit_settings(rabbit_server, queue_name=name)
    rejected = Topology(name).rejected
    older = {key: value for key, value in rejected.arguments.items() if key != "x-delivery-limit"}
    assert older != rejected.arguments
    opened = await open_connection(parameters(settings, "test")[0])
    await declare(await open_channel(opened.connection), Queue(rejected.name, older))
    opened.connection.close()
    await opened.closed
    with pytest.raises(Refused, match=rf"queue {rejected.name} .*else empty and delete the queue"):
        await connect_broker(settings, "test", 30)


async def test_a_wrong_password_is_refused_at_once(rabbit_server: RabbitServer) -> None:
    """It is not tried again: the timeout of an hour would end the test."""
    settings = rabbit_settings(rabbit_server, rabbitmq_password="wrong")
    with pytest.raises(Refused, match="RABBITMQ_PASSWORD"):
        await connect_broker(settings, "test", 3600)


async def test_a_missing_virtual_host_is_refused_at_once(rabbit_server: RabbitServer) -> None:
    """The error names the setting."""
    with pytest.raises(Refused, match="RABBITMQ_VHOST=/nowhere"):
        await connect_broker(rabbit_settings(rabbit_server, rabbitmq_vhost="/nowhere"), "test", 3600)


async def test_no_server_is_unavailable(unused_tcp_port: int) -> None:
    """Nobody listens: the error says where it was looked for."""
    from common.settings import load_settings

    settings = load_settings(rabbitmq_host="127.0.0.1", rabbitmq_port=unused_tcp_port)
    with pytest.raises(Unavailable, match=f"127.0.0.1:{unused_tcp_port}"):
        await connect_broker(settings, "test", 0.6)


async def test_the_next_node_is_tried(rabbit_server: RabbitServer, unused_tcp_port: int) -> None:
    """Of several hosts, one that answers is enough."""
    settings = rabbit_settings(rabbit_server).model_copy(
        update={"rabbitmq_host": "127.0.0.2, localhost", "queue_name": f"nodes-{secrets.token_hex(4)}"}
    )
    broker = await connect_broker(settings, "test", 10)
    await broker.publish(BATCH, Lane.BULK)
    await broker.close()


async def test_an_unroutable_publish_raises(rabbit_server: RabbitServer) -> None:
    """A queue that was deleted under our feet loses no batch silently."""
    queue = f"gone-{secrets.token_hex(4)}"
    broker = await connect_broker(rabbit_settings(rabbit_server, queue_name=queue), "test", 10)
    rabbit_server.delete_queues(queue)
    with pytest.raises(PublishFailed, match=f"has no queue {queue}"):
        await broker.publish(BATCH, Lane.BULK)
    await broker.close()


@pytest.mark.parametrize("answers", [1, 2])
async def test_a_connection_lost_in_the_handshake_is_no_refusal(
    rabbit_server: RabbitServer, answers: int
) -> None:
    """A broker that goes away while a client logs in, or opens its virtual host, may be back: it is tried again."""
    open_writers = []

    async def serve(client_reads: asyncio.StreamReader, client_writes: asyncio.StreamWriter) -> None:
        """Passes on so many of the server's answers, then cuts."""
        server_reads, server_writes = await asyncio.open_connection(rabbit_server.host, rabbit_server.port)
        open_writers.extend([client_writes, server_writes])
        for _ in range(answers):
            server_writes.write(await client_reads.read(65_536))
            client_writes.write(await server_reads.read(65_536))
        await client_reads.read(65_536)
        client_writes.close()
        server_writes.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy:
        settings = rabbit_settings(rabbit_server).model_copy(
            update={"rabbitmq_host": "127.0.0.1", "rabbitmq_port": proxy.sockets[0].getsockname()[1]}
        )
        with pytest.raises(Unavailable):
            await connect_broker(settings, "test", 0.6)
        for writer in open_writers:
            writer.close()


async def test_a_queue_that_was_deleted_is_declared_and_consumed_again(rabbit_server: RabbitServer) -> None:
    """RabbitMQ cancels its consumer: the subscription goes on with the new queue, and the publisher too."""
    queue = f"deleted-{secrets.token_hex(4)}"
    broker = await connect_broker(rabbit_settings(rabbit_server, queue_name=queue), "test", 10)
    subscription = await broker.subscribe(Lane.BULK, 10)
    rabbit_server.delete_queues(queue)

    async def published() -> bool:
        try:
            await broker.ready()
            await broker.publish(BATCH, Lane.BULK)
        except PublishFailed:
            return False
        return True

    await eventually(published)
    async with asyncio.timeout(60):
        (delivery, *_) = await subscription.take()
    delivery.ack()
    await broker.close()


async def test_a_failed_queue_that_was_deleted_is_declared_again(rabbit_server: RabbitServer) -> None:
    """The batch that found it gone is refused, whatever else the batch is published to; the next try keeps it."""
    async with fresh_broker(rabbit_server, "failed") as (broker, topology):
        await broker.declare_failed()
        rabbit_server.delete_queues(topology.failed.name)
        _, kept = await asyncio.gather(
            broker.publish(BATCH, Lane.BULK), broker.park(BATCH, Lane.BULK), return_exceptions=True
        )
        assert isinstance(kept, PublishFailed)
        await broker.ready()
        await broker.park(BATCH, Lane.BULK)
        assert (await broker.depths())[topology.failed.name] == 1


async def test_a_body_that_rabbitmq_dead_lettered_says_why(rabbit_server: RabbitServer) -> None:
    """Nobody gave it a reason, so it is RabbitMQ's own; that it once was in a retry queue is none."""
    async with fresh_broker(rabbit_server, "dead") as (broker, topology):
        await broker.publish(BATCH, Lane.BULK, after=0.1)
        with rabbit_server._connection() as connection:
            channel = connection.channel()
            for method, _, _ in channel.consume(topology.name, inactivity_timeout=60):
                channel.basic_reject(method.delivery_tag, requeue=False)
                break
            channel.cancel()
        async with asyncio.timeout(60):
            (delivery,) = await (await broker.subscribe(ParkedQueue.REJECTED, 10)).take()
        assert (delivery.reason, delivery.lane) == ("rejected", Lane.BULK)


async def test_a_body_over_the_delivery_limit_says_so(rabbit_server: RabbitServer) -> None:
    """A lane's limit is a million; a queue beside it with a limit of one shows what RabbitMQ calls it."""
    async with fresh_broker(rabbit_server, "limit") as (broker, topology):
        arguments = topology.lane(Lane.BULK).arguments | {"x-delivery-limit": 1}
        strict = Queue(f"{topology.name}.strict", arguments)
        with rabbit_server._connection() as connection:
            channel = connection.channel()
            channel.queue_declare(strict.name, durable=True, arguments=strict.arguments)
            channel.basic_publish("", strict.name, b"again and again")
            for method, _, _ in channel.consume(strict.name, inactivity_timeout=60):
                channel.basic_reject(method.delivery_tag, requeue=True)
                if method.redelivered:
                    break
            channel.cancel()
        async with asyncio.timeout(60):
            (delivery,) = await (await broker.subscribe(ParkedQueue.REJECTED, 10)).take()
        assert (delivery.body, delivery.reason) == (b"again and again", "delivery limit")


async def test_headers_of_strangers_are_no_danger(rabbit_server: RabbitServer) -> None:
    """Whoever may publish may put anything into the headers that we read: a body comes, as a bulk one."""
    from pika.spec import BasicProperties

    strange = {"x-lane": ["urgent"], "x-reason": 7, "x-death": "none"}
    async with fresh_broker(rabbit_server, "strange") as (broker, topology):
        await broker.declare_failed()
        for name in (topology.failed.name, topology.rejected.name):
            await broker._publisher.publish(name, b"", BasicProperties(headers=strange))
        without = {name: value for name, value in strange.items() if name != "x-reason"}
        await broker._publisher.publish(topology.rejected.name, b"", BasicProperties(headers=without))
        reasons = []
        async with asyncio.timeout(60):
            for shelf, count in ((ParkedQueue.FAILED, 1), (ParkedQueue.REJECTED, 2)):
                subscription = await broker.subscribe(shelf, 10)
                while count:
                    for delivery in await subscription.take():
                        assert delivery.lane is Lane.BULK
                        reasons.append(delivery.reason)
                        count -= 1
        assert reasons == ["", "7", ""]


async def test_a_prefetch_may_be_more_than_one_consumer_can_have(
    rabbit_server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AMQP's limit of 65,535 is one of a consumer: a queue of a million bodies can be asked for as a whole."""
    few = partial(RabbitSubscription, largest_prefetch=10)
    monkeypatch.setattr("common.broker.rabbitmq.RabbitSubscription", few)
    async with fresh_broker(rabbit_server, "prefetch") as (broker, topology):
        await asyncio.gather(*(broker.park(BATCH, Lane.BULK) for _ in range(40)))
        subscription = await broker.subscribe(ParkedQueue.FAILED, 25)
        taken: list[Delivery] = []
        async with asyncio.timeout(60):
            while len(taken) < 25:
                taken += await subscription.take()
            await eventually(
                lambda: rabbit_server.queue_depths(topology.failed.name) == {topology.failed.name: 15}
            )
            subscription.set_prefetch(40)
            while len(taken) < 40:
                taken += await subscription.take()


@contextmanager
def lost_deliveries(monkeypatch: pytest.MonkeyPatch, lost: set[int], **options: Any) -> Iterator[None]:
    """The n-th deliveries never arrive, as if the leader of their queue had died before it sent them.

    The last ones of a channel: unlike those of a dead leader, they have tags, which an ack of later ones would cover.
    """
    counter, on_body = itertools.count(1), RabbitSubscription._on_body

    def lossy(self: RabbitSubscription, *args: Any) -> None:
        if next(counter) not in lost:
            on_body(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(RabbitSubscription, "_on_body", lossy)
        patched.setattr("common.broker.rabbitmq.RabbitSubscription", partial(RabbitSubscription, **options))
        yield


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    """Takes this many deliveries."""
    taken: list[Delivery] = []
    async with asyncio.timeout(60):
        while len(taken) < count:
            taken += await subscription.take()
    return taken


async def test_deliveries_that_were_lost_come_again_after_silence(
    rabbit_server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ sends no more to a consumer whose prefetch lost deliveries use up."""
    timing = Timing(silence_s=0.1)
    async with fresh_broker(rabbit_server, "silent") as (broker, topology):
        with lost_deliveries(monkeypatch, {1, 2, 3}, timing=timing):
            await asyncio.gather(*(broker.publish(BATCH, Lane.BULK) for _ in range(5)))
            subscription = await broker.subscribe(Lane.BULK, 3)
            acked = 0
            async with asyncio.timeout(60):
                while acked < 5:
                    for delivery in await subscription.take():
                        delivery.ack()
                        acked += 1
    await eventually(lambda: rabbit_server.queue_depths(topology.name) == {topology.name: 0})


async def test_deliveries_that_were_lost_come_again_after_a_fall(
    rabbit_server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The channel of the canceled consumer closes once the others are acked. These do not come again."""
    timing = Timing(silence_s=3600)
    async with fresh_broker(rabbit_server, "fallen") as (broker, topology):
        with lost_deliveries(monkeypatch, {3, 4}, timing=timing):
            await asyncio.gather(*(broker.publish(BATCH, Lane.BULK) for _ in range(4)))
            subscription = await broker.subscribe(Lane.BULK, 4)
            first, second = await take(subscription, 2)
            subscription.set_prefetch(2)
            first.ack()
            second.ack()
            again = await take(subscription, 2)
            assert [delivery.redelivered for delivery in again] == [True, True]
            for delivery in again:
                delivery.ack()
    await eventually(lambda: rabbit_server.queue_depths(topology.name) == {topology.name: 0})


async def test_a_fall_without_a_channel_left_connects_again(
    rabbit_server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nothing would consume any more."""
    async with fresh_broker(rabbit_server, "no-channel") as (broker, _):
        await asyncio.gather(*(broker.publish(BATCH, Lane.BULK) for _ in range(3)))
        subscription = await broker.subscribe(Lane.BULK, 2)
        await take(subscription, 2)

        def no_channel(*_: Any, **__: Any) -> None:
            raise NoFreeChannels

        with monkeypatch.context() as patched:
            patched.setattr(AsyncioConnection, "channel", no_channel)
            subscription.set_prefetch(1)
        assert (await take(subscription, 1))[0].redelivered


async def test_a_subscription_that_is_closed_while_it_attaches_consumes_nothing(
    rabbit_server: RabbitServer,
) -> None:
    """A sender may stop while its connection is made again. It would release each delivery, only to get it again."""
    async with fresh_broker(rabbit_server, "closed") as (broker, topology):
        opened = await open_connection(parameters(rabbit_settings(rabbit_server), "test")[0])
        subscription = RabbitSubscription(Lane.BULK, topology.lane(Lane.BULK), 5, broker)
        attaching = asyncio.create_task(subscription.attach(opened.connection))
        await asyncio.sleep(0)
        await subscription.close()
        await attaching
        assert not opened.connection.direct
        opened.connection.close()


async def test_a_peek_does_not_take_a_missing_lane_for_an_empty_one(rabbit_server: RabbitServer) -> None:
    """RabbitMQ calls a queue missing whose node is down: what is in it must not pass for lost."""
    async with fresh_broker(rabbit_server, "missing") as (broker, topology):
        rabbit_server.delete_queues(topology.name)
        with pytest.raises(Unavailable, match=topology.name):
            _ = [body async for body in broker.peek()]


async def test_a_peek_that_loses_its_connection_does_not_just_end(rabbit_server: RabbitServer) -> None:
    """A peek that ends has shown everything; one that could not raises. All of it is still there."""
    async with fresh_broker(rabbit_server, "lost") as (broker, _):
        await asyncio.gather(*(broker.publish(BATCH, Lane.BULK) for _ in range(100)))
        bodies = broker.peek()
        await anext(bodies)
        await asyncio.to_thread(rabbit_server.ctl, "close_all_connections", "test")
        with pytest.raises(Unavailable, match="closed the channel"):
            _ = [body async for body in bodies]
        await broker.ready()
        assert sum([1 async for _ in broker.peek()]) == 100


async def test_a_peek_trusts_no_count(rabbit_server: RabbitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """RabbitMQ says 0 of a quorum queue that is too busy to answer: every body is shown all the same."""

    async def said_to_be_empty(over: OpenChannel, queue: str) -> QueueStatus | None:
        return QueueStatus(0, 0) if await status_of(over, queue) else None

    async with fresh_broker(rabbit_server, "busy") as (broker, topology):
        await asyncio.gather(*(broker.publish(BATCH, lane) for lane in Lane for _ in range(3)))
        monkeypatch.setattr("common.broker.rabbitmq.peek.status_of", said_to_be_empty)
        shown = Counter([name async for name, _ in broker.peek()])
        assert shown == {topology.name: 3, f"{topology.name}.urgent": 3}


async def test_missing_queues_are_looked_for_only_on_a_refresh(
    rabbit_server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Depths that are asked for every second don't fill RabbitMQ's log: what was missing is left alone until told."""
    async with fresh_broker(rabbit_server, "depths") as (broker, topology):
        asked: list[str] = []
        statuses = broker._publisher.statuses

        async def noting(queues: list[Queue]) -> dict[str, QueueStatus]:
            asked.extend(queue.name for queue in queues)
            return await statuses(queues)

        monkeypatch.setattr(broker._publisher, "statuses", noting)
        standing = {queue.name for queue in topology.standing}
        await broker.park(BATCH, Lane.BULK)
        assert await broker.depths(refresh=False) == dict.fromkeys([*standing, topology.failed.name], 0)
        assert set(asked) == standing
        assert (await broker.depths())[topology.failed.name] == 1
        asked.clear()
        assert (await broker.depths(refresh=False))[topology.failed.name] == 1
        assert set(asked) == {*standing, topology.failed.name}
