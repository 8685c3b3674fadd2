"""A pipeline under test: launchers, their servers, and views of both from outside."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from common.broker.topology import RETRY_RUNGS_S, Topology
from common.ledger.port import Ledger
from common.ledger.values import Snapshot
from common.messages import Lane
from common.stores import connect_stores
from tests.e2e.processes import Launched, Launcher
from tests.servers import RabbitServer, RedisServer
from tests.waiting import eventually

# Tests that share a Redis use this database in turn. Each empties it first.
REDIS_DB = 7


class Pipeline(Launcher):
    """Launchers on their own RabbitMQ queue and an empty Redis database."""

    def __init__(self, folder: Path, rabbit: RabbitServer, redis: RedisServer, queue: str) -> None:
        env = {
            "RABBITMQ_HOST": rabbit.host,
            "RABBITMQ_PORT": rabbit.port,
            **redis.environment,
            "REDIS_DB": REDIS_DB,
            "QUEUE_NAME": queue,
        }
        super().__init__(folder, env)
        self.rabbit = rabbit
        self.redis_server = redis
        self.queue = queue
        self.topology = Topology(queue)
        self.ledger: Ledger
        self.redis = redis.observer(REDIS_DB)

    def use(self, **env: object) -> None:
        """Sets variables for all launchers that start from now on."""
        self.env |= env
        self.topology = Topology(self.queue, str(self.env.get("QUEUE_TYPE", "quorum")))

    async def open(self) -> None:
        """Empties the database and connects to it."""
        self.redis.flushdb()
        settings = self.redis_server.settings.model_copy(update={"redis_db": REDIS_DB})
        self.ledger = (await connect_stores(settings, 10)).ledger

    async def shut(self) -> None:
        """Ends the processes and removes the queues."""
        self.close()
        await self.ledger.close()
        self.redis.close()
        self.rabbit.delete_queues(*self.queue_names())

    def hash(self, key: str) -> dict[str, int]:
        """The numeric fields of a hash, read from Redis without product code."""
        values: dict[str, str] = self.redis.hgetall(key)  # type: ignore[assignment]  # a synchronous client
        return {name: int(value) for name, value in values.items() if value.lstrip("-").isdigit()}

    def shares(self) -> dict[str, int]:
        """The number of messages that each sender has settled, by its name."""
        keys: list[str] = self.redis.keys("sms:sender:*")  # type: ignore[assignment]
        hashes = {key.removeprefix("sms:sender:"): self.hash(key) for key in keys}
        return {name: values.get("sent", 0) + values.get("failed", 0) for name, values in hashes.items()}

    async def settled(self, run: str, messages: int, deadline_s: float = 120) -> Snapshot:
        """Waits until this many messages of the run are settled, and returns its counters."""

        async def over() -> Snapshot:
            now = await self.ledger.snapshot(run)
            assert now.settled >= messages, now
            return now

        snapshot: Snapshot = await eventually(over, deadline_s, f"{messages} of {run} are settled")
        return snapshot

    async def progress(self, run: str, at_least: int, deadline_s: float = 60) -> Snapshot:
        """Waits until the run has begun and at least this many messages are settled, and returns its counters."""
        await eventually(lambda: self.redis.exists(f"sms:run:{run}"), deadline_s, f"{run} begins")
        return await self.settled(run, at_least, deadline_s)

    async def assert_exact(
        self, run: str, messages: int, senders: Sequence[Launched], deadline_s: float = 120
    ) -> Snapshot:
        """Waits for the end of a run and checks its books: the identity, every state, and empty queues.

        Stops the senders gracefully first, so that an unacked delivery would be back in its queue.
        """
        await self.settled(run, messages, deadline_s)
        await eventually(self._at_rest, describe="the queues are empty and nothing is in flight")
        for sender in senders:
            sender.signal(signal.SIGTERM)
        for sender in senders:
            assert await sender.ended() == 0, sender.stderr
            assert sender.stderr == ""
        assert set(self.depths().values()) == {0}
        now = await self.ledger.snapshot(run)
        assert (now.published, now.queued, now.sending, now.settled) == (messages, 0, 0, messages)
        counted = {"published": messages, "sending": 0, "sent": now.sent, "failed": now.failed}
        assert await self.ledger.recount(run) == counted
        return now

    async def _at_rest(self) -> bool:
        """Whether the queues are empty and, by their heartbeats, no sender has a message in flight."""
        senders = (await self.ledger.snapshot()).senders.values()
        return set(self.depths().values()) == {0} and not any(sender.in_flight for sender in senders)

    def depths(self) -> dict[str, int]:
        """The number of AMQP messages in each existing queue of the pipeline."""
        return self.rabbit.queue_depths(*self.queue_names())

    def queue_names(self) -> list[str]:
        """The standing queues, and those that retries and failures may have declared."""
        names = [queue.name for queue in self.topology.standing]
        if "KEEP_FAILED" in self.env:
            names.append(self.topology.failed.name)
        if "MAX_ATTEMPTS" in self.env:
            names += [self.topology.retry(Lane.BULK, after).name for after in RETRY_RUNGS_S]
        return names

    def channel(self) -> BlockingChannel:
        """A channel for actions that the product never takes. Close its `connection` afterwards."""
        where = pika.ConnectionParameters(self.rabbit.host, self.rabbit.port)
        channel: Any = pika.BlockingConnection(where).channel()
        return channel
