"""RabbitMQ and Redis of a study's own, and the services that run on them."""

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Self

import pika
import pika.exceptions
import psutil
import redis

from common.broker.topology import Topology
from common.ledger.port import Ledger
from common.settings import Settings
from common.stores import connect_stores
from studies import ROOT, runs
from studies.process import Process, StudyFailed, until
from studies.record import PACKAGES, Machine, today, versions
from tests.servers import RabbitServer, RedisServer


class Servers:
    """RabbitMQ and Redis that nothing else uses; made by `started`.

    Attributes:
        rabbit: The server.
        redis: The server.
        ledger: The ledger on that Redis.
        environment: The settings that lead a service to the servers.
        pids: The servers' processes by name, for a meter.
    """

    def __init__(self, rabbit: RabbitServer, redis_server: RedisServer, ledger: Ledger) -> None:
        if rabbit.pid is None or redis_server.pid is None:
            raise StudyFailed("a server is down")
        self.rabbit = rabbit
        self.redis = redis_server
        self.ledger = ledger
        self.environment = environment_of(rabbit, redis_server)
        self.pids = {"rabbitmq": rabbit.pid, "redis": redis_server.pid}

    @classmethod
    @asynccontextmanager
    async def started(cls) -> AsyncIterator[Self]:
        """Starts both, and ends them on exit."""
        with RabbitServer() as rabbit, RedisServer() as redis_server:
            address: dict[str, Any] = {"redis_host": redis_server.host, "redis_port": redis_server.port}
            # Without the user's own settings.
            async with await connect_stores(Settings(_env_file=None, **address), 30.0) as stores:
                yield cls(rabbit, redis_server, stores.ledger)

    async def fresh(self) -> None:
        """Empties Redis, and waits until RabbitMQ is idle."""
        self.redis.flush()
        await self.quiet()

    async def quiet(self, deadline_s: float = 3.0) -> None:
        """Waits until RabbitMQ, after a publish or a delete, uses less than a tenth of a core."""
        server, ends_s = psutil.Process(self.pids["rabbitmq"]), time.monotonic() + deadline_s
        server.cpu_percent()
        await asyncio.sleep(0.2)
        while server.cpu_percent() > 10 and time.monotonic() < ends_s:
            await asyncio.sleep(0.2)

    def waiting(self, *queues: str) -> int:
        """How many AMQP messages are ready in these queues together."""
        return sum(self.rabbit.queue_depths(*queues).values())

    def consumers(self, queue: str) -> int:
        """How many consumers a queue has; 0 if there is no such queue."""
        address = pika.ConnectionParameters(self.rabbit.host, self.rabbit.port)
        with pika.BlockingConnection(address) as connection:
            try:
                found = connection.channel().queue_declare(queue, passive=True).method.consumer_count
            except pika.exceptions.ChannelClosedByBroker as error:
                if error.reply_code != 404:
                    raise
                return 0
        return int(found)

    def conditions(self, packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
        """The fields that every `Record` has."""
        return conditions(self.rabbit, self.redis, packages)

    def pipeline(self, name: str, **settings: object) -> "Pipeline":
        """Services on a queue of their own, under these settings."""
        return Pipeline(self, f"{name}-{secrets.token_hex(4)}", settings)


class Pipeline:
    """Producers and senders as processes, on one queue.

    Attributes:
        queue: The queue's name, which also serves as the name of a run.
    """

    def __init__(self, servers: Servers, queue: str, settings: dict[str, object]) -> None:
        self.queue = queue
        self._servers = servers
        self._settings = {name.upper(): str(value) for name, value in settings.items()}

    @property
    def environment(self) -> dict[str, str]:
        """All settings of its services."""
        return {**self._servers.environment, "QUEUE_NAME": self.queue, **self._settings}

    def producer(self, *arguments: object, run: str = "") -> Process:
        """A producer of the run; of the queue's own unless another is named."""
        return self.launcher("producer", *arguments, "--run", run or self.queue)

    def sender(self) -> Process:
        """A sender."""
        return self.launcher("sender")

    def launcher(self, name: str, *arguments: object) -> Process:
        """`python NAME.py` with arguments, in the environment of the study alone."""
        return self.process(name, str(ROOT / f"{name}.py"), *arguments)

    def process(self, name: str, *arguments: object) -> Process:
        """Python with arguments, in the environment of the study alone."""
        command = [sys.executable, *map(str, arguments)]
        environment = {**self.environment, "PYTHONPATH": str(ROOT)}
        return Process(name, command, env=environment, isolated=True)

    async def ready(self, *senders: Process) -> None:
        """Waits until the ledger lists a sender."""

        async def listed() -> bool:
            return bool((await self._servers.ledger.snapshot()).senders)

        await until(listed, *senders, what="a sender has started")

    async def audit(self, messages: int, run: str = "") -> None:
        """Raises StudyFailed unless the run adds up and the queues are empty."""
        await runs.audit(self._servers.ledger, run or self.queue, messages, self.waiting())

    def waiting(self) -> int:
        """How many AMQP messages its queues hold."""
        return self._servers.waiting(*self._queues)

    def delete_queues(self) -> None:
        """Removes its queues."""
        self._servers.rabbit.delete_queues(*self._queues)

    @property
    def _queues(self) -> list[str]:
        return [one.name for one in Topology(self.queue).standing]


def conditions(
    rabbit: RabbitServer, redis_server: RedisServer, packages: Iterable[str] = PACKAGES
) -> dict[str, Any]:
    """The fields that every `Record` has, of a study on these servers."""
    with redis.Redis(redis_server.host, redis_server.port) as client:
        redis_version = str(client.info("server")["redis_version"])
    return {
        "measured_at": today(),
        "machine": Machine.here(),
        "versions": versions(packages, rabbitmq=rabbit.ctl("version").strip(), redis_server=redis_version),
    }


def environment_of(rabbit: RabbitServer, redis_server: RedisServer) -> dict[str, str]:
    """The settings that lead a service to these servers."""
    return {
        "RABBITMQ_HOST": rabbit.host,
        "RABBITMQ_PORT": str(rabbit.port),
        "REDIS_HOST": redis_server.host,
        "REDIS_PORT": str(redis_server.port),
    }
