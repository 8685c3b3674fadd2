"""What RabbitMQ alone can do wrong, and how it is said."""

import asyncio
import secrets

import pytest

from common.broker.rabbitmq import RabbitBroker, connect_broker
from common.errors import PublishFailed, Refused, Unavailable
from common.messages import Batch, Lane, Message
from tests.contract.benches import rabbit_settings
from tests.servers import RabbitServer
from tests.waiting import eventually

BATCH = Batch(run="r", messages=[Message(0, "+999123456789", "text")])


async def test_a_queue_of_another_type_is_refused_by_name(rabbit_server: RabbitServer) -> None:
    """QUEUE_TYPE was changed: the error names the setting and the queue, and comes at once."""
    queue = f"mismatch-{secrets.token_hex(4)}"
    first = RabbitBroker(rabbit_settings(rabbit_server, queue_name=queue, queue_type="classic"), "test")
    await first.start()
    await first.close()
    with pytest.raises(Refused, match=rf"queue {queue}\S* .*QUEUE_TYPE=quorum"):
        await connect_broker(
            rabbit_settings(rabbit_server, queue_name=queue, queue_type="quorum"), "test", 30
        )


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
    with pytest.raises(PublishFailed, match="no such queue"):
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
    async with asyncio.timeout(10):
        (delivery, *_) = await subscription.take()
    delivery.ack()
    await broker.close()
