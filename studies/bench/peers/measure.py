"""A peer under measurement. A peer that does not add up has no figure."""

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from studies import ROOT
from studies.bench.measure import Bench
from studies.bench.peers.port import Peer, counters_key
from studies.process import Process, StudyFailed, until
from studies.servers import Servers

SIDES = {"publish": "its producer", "work": "its worker"}


@asynccontextmanager
async def opened(
    peer: Peer, servers: Servers, environment: dict[str, str], messages: int
) -> AsyncIterator["PeerBench"]:
    """Queues of its own and an empty Redis. Afterwards the queues are deleted."""
    await servers.fresh()
    bench = PeerBench(peer, servers, environment, messages)
    try:
        yield bench
    finally:
        await bench.close()


class PeerBench(Bench):
    """One measurement of a peer. Its clock is the monotonic one, which all processes share."""

    batch_size = 1

    def __init__(self, peer: Peer, servers: Servers, environment: dict[str, str], messages: int) -> None:
        self.who = peer.name
        self.servers = servers
        self.messages = self.bodies = messages
        self._queue = f"peer-{secrets.token_hex(4)}"
        self._peer = peer
        self._environment = {
            **servers.environment,
            **peer.environment,
            **environment,
            "QUEUE_NAME": self._queue,
            "PYTHONPATH": str(ROOT),
        }
        self._redis = Redis(host=servers.redis.host, port=servers.redis.port)

    def producer(self) -> Process:
        return self._process("publish", "--count", str(self.messages))

    def worker(self) -> Process:
        arguments = (argument.format(count=self.messages) for argument in self._peer.worker)
        return self._process("work", *arguments)

    async def ready(self, worker: Process) -> None:
        async def consuming() -> bool:
            worker.check_alive()
            return self.servers.consumers(self._queue) >= self._peer.consumers

        await until(consuming, what="its worker consumes")

    async def begun_s(self, producer: Process) -> float | None:
        begun_s: float | None = producer.reported("begun_s")
        if begun_s is None:
            producer.check_alive()
        return begun_s

    async def idle_s(self, worker: Process) -> float | None:
        worker.check_alive()
        return None if await self._sent(worker) else time.monotonic()

    async def ended_s(self, worker: Process) -> float | None:
        return time.monotonic() if await self._sent(worker) >= self.messages else None

    def waiting(self) -> int:
        return self.servers.waiting(self._queue)

    async def stop(self, worker: Process) -> None:
        """Its exit code does not matter."""
        await asyncio.sleep(0.3)  # after its last count a worker may still have to ack
        worker.stop()
        await worker.ended(deadline_s=15.0)

    async def audit(self) -> None:
        # A peer that keeps no counters was seen to report all messages.
        counted = await self._counted() if self._peer.counts else self.messages
        waiting = self.waiting()
        if counted != self.messages or waiting:
            raise StudyFailed(
                f"it does not add up: {counted} of {self.messages} sent, {waiting} left in the queue"
            )

    async def close(self) -> None:
        await self._redis.aclose()
        self.servers.rabbit.delete_queues(*(name.format(self._queue) for name in self._peer.queues))

    async def _sent(self, worker: Process) -> int:
        """How many messages are sent: as counted in Redis, or as reported by a worker that keeps no counters."""
        return await self._counted() if self._peer.counts else int(worker.reported("sent") or 0)

    async def _counted(self) -> int:
        return int(await self._redis.hget(counters_key(self._queue), "sent") or 0)

    def _process(self, side: str, *arguments: str) -> Process:
        command = [sys.executable, "-m", f"studies.bench.peers.{self._peer.module}", side, *arguments]
        return Process(SIDES[side], command, env=self._environment, isolated=True)
