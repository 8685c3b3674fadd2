"""The test servers themselves: other tests' proofs rest on what kill and start do to them."""

import pika
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.runners import free_port
from tests.servers import RabbitServer, RedisServer
from tests.waiting import eventually


def test_redis_keeps_its_data_through_a_kill(redis_server: RedisServer) -> None:
    """A write that Redis answered is there after SIGKILL and start, on the same port, in another process."""
    port, pid = redis_server.port, redis_server.pid
    with redis.Redis(redis_server.host, port) as client:
        client.set("test-servers", "kept")

    redis_server.kill()
    assert redis_server.pid is None
    redis_server.start()

    assert redis_server.port == port != 6379
    assert redis_server.pid not in (None, pid)
    with redis.Redis(redis_server.host, port, decode_responses=True) as client:
        assert client.get("test-servers") == "kept"
        client.delete("test-servers")


def test_redis_asks_for_its_password() -> None:
    """A second Redis beside the first, with a password, serves those who know it and no others."""
    with RedisServer(password="secret") as server:
        once = Retry(NoBackoff(), 0)  # redis-py repeats even what a password refuses, for seconds
        redis.Redis(server.host, server.port, password="secret").ping()
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(server.host, server.port, retry=once).ping()


@pytest.mark.parametrize("end", ["kill", pytest.param("stop", marks=pytest.mark.slow)])
async def test_rabbit_keeps_its_data(rabbit_server: RabbitServer, end: str) -> None:
    """A confirmed persistent message is there after SIGKILL, or a graceful stop, and start, on the same port."""
    queue, port, pid = f"test-servers-{end}", rabbit_server.port, rabbit_server.pid
    with pika.BlockingConnection(pika.ConnectionParameters(rabbit_server.host, port)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"kept", pika.BasicProperties(delivery_mode=2), mandatory=True)

    rabbit_server.sync_queues()
    getattr(rabbit_server, end)()
    assert rabbit_server.pid is None
    rabbit_server.start()

    assert rabbit_server.port == port != 5672
    assert rabbit_server.pid not in (None, pid)
    await eventually(lambda: rabbit_server.queue_depths(queue) == {queue: 1})
    assert queue in rabbit_server.queue_depths()
    rabbit_server.delete_queues(queue)
    assert rabbit_server.queue_depths(queue) == {}


async def test_eventually_says_what_it_waited_for() -> None:
    """A condition that never comes true fails with the condition and its last value."""
    with pytest.raises(TimeoutError, match=r"within 0.1 s.*free_port\(\) < 0.*False"):
        await eventually(lambda: free_port() < 0, deadline_s=0.1)
