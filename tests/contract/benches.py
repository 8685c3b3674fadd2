"""The implementations that the contract suites run against, each with a way to cut its connections."""

import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from common.broker.memory import MemoryBroker
from common.broker.port import Broker
from common.broker.rabbitmq import RabbitBroker
from common.broker.topology import Topology
from common.ledger.redis import RedisLedger
from common.messages import Lane
from common.redis import connect_redis
from common.settings import Settings, load_settings
from tests.servers import RabbitServer, RedisServer


@dataclass
class BrokerBench:
    """A broker under test."""

    broker: Broker
    topology: Topology
    cut: Callable[[], Awaitable[None]]
    publish_raw: Callable[[bytes], Awaitable[None]]
    rejected: Callable[[], Awaitable[list[tuple[bytes, str]]]]


def rabbit_settings(server: RabbitServer, **more: object) -> Settings:
    return load_settings(rabbitmq_host=server.host, rabbitmq_port=server.port, **more)


@asynccontextmanager
async def memory_bench() -> AsyncIterator[BrokerBench]:
    broker = MemoryBroker()

    async def cut() -> None:
        broker.disconnect()

    async def publish_raw(body: bytes) -> None:
        broker.publish_raw(body, Lane.BULK)

    async def rejected() -> list[tuple[bytes, str]]:
        return broker.rejected

    yield BrokerBench(broker, Topology("sms_queue"), cut, publish_raw, rejected)
    await broker.close()


@asynccontextmanager
async def rabbit_bench(server: RabbitServer, queue_type: str) -> AsyncIterator[BrokerBench]:
    queue = f"contract-{secrets.token_hex(4)}"
    broker = RabbitBroker(rabbit_settings(server, queue_name=queue, queue_type=queue_type), "test")
    await broker.start()
    topology = Topology(queue, queue_type)

    async def cut() -> None:
        # As a firewall would: the sockets are gone, nobody said goodbye.
        for link in (broker._publisher._link, broker._consumer):
            if link._connection is not None:
                link._connection._transport._sock.shutdown(socket.SHUT_RDWR)

    async def publish_raw(body: bytes) -> None:
        from pika.spec import BasicProperties

        await broker._publisher.publish(queue, body, BasicProperties(delivery_mode=2))

    async def rejected() -> list[tuple[bytes, str]]:
        found = []
        with server._connection() as connection:
            channel = connection.channel()
            while (got := channel.basic_get(topology.rejected.name, auto_ack=True))[0] is not None:
                found.append((got[2], got[1].headers["x-reason"]))
        return found

    yield BrokerBench(broker, topology, cut, publish_raw, rejected)
    await broker.close()


async def redis_ledger(server: RedisServer, run_ttl_s: float = 3600) -> RedisLedger:
    """A ledger on an empty Redis."""
    server.flush()
    settings = load_settings(redis_host=server.host, redis_port=server.port)
    return RedisLedger(await connect_redis(settings, 10), run_ttl_s)
