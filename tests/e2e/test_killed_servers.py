"""Servers that crash and come back, and connections that are cut, while everything is at work."""

import time
from signal import SIGTERM

import pika
import pytest

from common.broker.topology import RETRY_RUNGS_S, Topology
from common.messages import Lane
from tests.e2e.pipeline import Pipeline
from tests.e2e.processes import Launched
from tests.servers import RabbitServer, RedisServer
from tests.waiting import eventually

RUN = "through-it-all"
AT_WORK = {"SENDER_CONCURRENCY": 400, "MEAN_PROCESSING_TIME": 0.1, "FAILURE_RATE": 0.3, "RETRY_BACKOFF": 0.5}

queue_types = pytest.mark.parametrize(
    "queue_type", ["quorum", pytest.param("classic", marks=pytest.mark.slow)]
)


@queue_types
def test_what_was_unacked_when_rabbitmq_died_is_flagged(
    mortal_servers: tuple[RabbitServer, RedisServer], queue_type: str
) -> None:
    """SIGKILL of RabbitMQ: what a consumer held comes again flagged `redelivered`, and what it had acked, doesn't.

    The ledger rests on it: it takes a message that is sending, and comes without the flag, for another copy of one
    that somebody has in hand, and drops it.
    """
    rabbit, _ = mortal_servers
    queue = Topology(f"flags-{queue_type}", queue_type).lane(Lane.BULK)
    connection, taken = _consume(rabbit, queue.name, queue.arguments, prefetch=50)
    channel = connection.channel()
    channel.confirm_delivery()
    for k in range(100):
        channel.basic_publish("", queue.name, b"%d" % k, pika.BasicProperties(delivery_mode=2))
    rabbit.sync_queues()
    _collect(connection, taken, 50)
    held = set(taken)

    rabbit.kill()
    rabbit.start()

    connection, taken = _consume(rabbit, queue.name, queue.arguments, prefetch=100)
    _collect(connection, taken, 100)
    connection.close()
    rabbit.delete_queues(queue.name)
    assert len(held) == 50
    assert all(taken[body] for body in held)


@pytest.mark.parametrize(
    ("queue_type", "messages", "batch_size"),
    [
        ("quorum", 20_000, 1),
        pytest.param("quorum", 200_000, 50, marks=pytest.mark.slow),
        pytest.param("classic", 20_000, 1, marks=pytest.mark.slow),
    ],
)
async def test_rabbitmq_dies_and_comes_back(
    mortal_pipeline: Pipeline, queue_type: str, messages: int, batch_size: int
) -> None:
    """SIGKILL of RabbitMQ while a producer publishes and senders work and retry: all carry on, the totals are exact."""
    pipeline = mortal_pipeline
    producer, senders = await _at_work(pipeline, messages, batch_size, queue_type)

    pipeline.rabbit.kill()
    pipeline.rabbit.start()

    assert await producer.ended() == 0, producer.stderr
    now = await pipeline.assert_exact(RUN, messages, senders, 100)
    assert now.retried > 0
    assert all(one.logged("broker_lost") and one.logged("broker_back") for one in [producer, *senders])


@pytest.mark.parametrize(
    ("messages", "batch_size"), [(20_000, 1), pytest.param(200_000, 50, marks=pytest.mark.slow)]
)
async def test_redis_dies_and_comes_back(mortal_pipeline: Pipeline, messages: int, batch_size: int) -> None:
    """SIGKILL of Redis, three times, while a producer and senders work: all carry on, the totals are exact."""
    pipeline = mortal_pipeline
    producer, senders = await _at_work(pipeline, messages, batch_size)

    for share in (0.2, 0.4, 0.6):
        pipeline.redis_server.kill()
        pipeline.redis_server.start()
        await pipeline.progress(RUN, int(share * messages), 60)

    assert await producer.ended() == 0, producer.stderr
    await pipeline.assert_exact(RUN, messages, senders, 100)
    assert all(one.logged("ledger_unreachable") and one.logged("ledger_answers_again") for one in senders)


@pytest.mark.slow
async def test_all_connections_are_cut(pipeline: Pipeline) -> None:
    """RabbitMQ closes every connection in mid-run: they are made again, and the totals are exact."""
    producer, senders = await _at_work(pipeline, 20_000, 1)

    pipeline.rabbit.ctl("close_all_connections", "a test")

    assert await producer.ended() == 0, producer.stderr
    await pipeline.assert_exact(RUN, 20_000, senders, 100)
    assert all(sender.logged("broker_back") for sender in senders)


async def _at_work(
    pipeline: Pipeline, messages: int, batch_size: int, queue_type: str = "quorum"
) -> tuple[Launched, list[Launched]]:
    """A producer that still publishes, and two senders in mid-run that retry what fails."""
    pipeline.use(QUEUE_TYPE=queue_type, MAX_ATTEMPTS=3, BATCH_SIZE=batch_size, **AT_WORK)
    _declare_retry_queues(pipeline)
    senders = [pipeline.sender(SENDER_CONCURRENCY=400 * batch_size) for _ in range(2)]
    await eventually(lambda: all(sender.logged("sender_started") for sender in senders))
    pipeline.rabbit.sync_queues()
    producer = pipeline.producer("--num-messages", messages, "--run", RUN)
    await pipeline.progress(RUN, messages // 20)
    assert producer.runs
    return producer, senders


def _declare_retry_queues(pipeline: Pipeline) -> None:
    """Ahead of their use, since a queue that was declared a moment before a crash does not survive it."""
    channel = pipeline.channel()
    for after in RETRY_RUNGS_S:
        queue = pipeline.topology.retry(Lane.BULK, after)
        channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)
    channel.connection.close()


def _consume(
    rabbit: RabbitServer, queue: str, arguments: dict[str, object], prefetch: int
) -> tuple[pika.BlockingConnection, dict[bytes, bool]]:
    """A consumer that acks nothing, and what it was given: body -> whether flagged as redelivered."""
    connection = pika.BlockingConnection(pika.ConnectionParameters(rabbit.host, rabbit.port))
    channel = connection.channel()
    channel.queue_declare(queue, durable=True, arguments=arguments)
    channel.basic_qos(prefetch_count=prefetch)
    taken: dict[bytes, bool] = {}
    channel.basic_consume(
        queue, lambda _, method, __, body: taken.update({body: method.redelivered or taken.get(body, False)})
    )
    return connection, taken


def _collect(connection: pika.BlockingConnection, taken: dict[bytes, bool], wanted: int) -> None:
    ends = time.monotonic() + 60
    while len(taken) < wanted and time.monotonic() < ends:
        connection.process_data_events(0.05)


async def test_a_monitor_ends_on_sigterm_while_redis_is_gone(mortal_pipeline: Pipeline) -> None:
    """It waits for Redis for as long as it takes, but not longer than its user wants."""
    monitor = mortal_pipeline.monitor("--update-interval", 0.1)
    await eventually(lambda: monitor.logged("statistics"))
    mortal_pipeline.redis_server.kill()
    await eventually(lambda: monitor.logged("ledger_unreachable"))
    monitor.signal(SIGTERM)
    assert await monitor.ended() == 0
    assert "Traceback" not in monitor.stderr
