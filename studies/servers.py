"""The servers of a benchmark session, as measurements see them: how busy they are, what is in their queues."""

import asyncio
import time

import pika
import pika.exceptions
import psutil

from studies.process import BenchmarkFailed
from tests.servers import RabbitServer, RedisServer

QUIET_SHARE = 0.1
QUIET_DEADLINE_S = 3.0


class Servers:
    """RabbitMQ and Redis that nobody else uses; `processes` are by name, for a meter.

    Raises BenchmarkFailed if one is down.
    """

    def __init__(self, rabbit: RabbitServer, redis: RedisServer) -> None:
        if rabbit.pid is None or redis.pid is None:
            raise BenchmarkFailed("a server is down")
        self.rabbit = rabbit
        self.redis = redis
        self.processes = {"rabbitmq": psutil.Process(rabbit.pid), "redis": psutil.Process(redis.pid)}

    @property
    def settings(self) -> dict[str, str]:
        """Where they are, as environment."""
        return {
            "RABBITMQ_HOST": self.rabbit.host,
            "RABBITMQ_PORT": str(self.rabbit.port),
            "REDIS_HOST": self.redis.host,
            "REDIS_PORT": str(self.redis.port),
        }

    async def fresh(self) -> None:
        """Empties Redis, and waits until RabbitMQ has nothing left to do."""
        self.redis.flush()
        await self.quiet()

    async def quiet(self) -> None:
        """Waits until RabbitMQ has done what it does in the background after a publish or a delete."""
        server, deadline = self.processes["rabbitmq"], time.monotonic() + QUIET_DEADLINE_S
        server.cpu_percent()
        await asyncio.sleep(0.2)
        while server.cpu_percent() > 100 * QUIET_SHARE and time.monotonic() < deadline:
            await asyncio.sleep(0.2)

    def waiting(self, *queues: str) -> int:
        """How many AMQP messages are ready in these queues together."""
        return sum(self.rabbit.queue_depths(*queues).values())

    def consumers(self, queue: str) -> int:
        """How many consumers a queue has; 0 while it does not exist."""
        address = pika.ConnectionParameters(self.rabbit.host, self.rabbit.port)
        with pika.BlockingConnection(address) as connection:
            try:
                found = connection.channel().queue_declare(queue, passive=True).method.consumer_count
            except pika.exceptions.ChannelClosedByBroker as error:
                if error.reply_code != 404:
                    raise
                return 0
        return int(found)
