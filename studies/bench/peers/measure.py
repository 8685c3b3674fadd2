"""Measures one peer at the works that ours is measured at; what does not add up gives no figure."""

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from studies.bench.figures import BOTH, CONSUME, PUBLISH, Measured
from studies.bench.peers.port import Peer, counters_key
from studies.meter import Meter
from studies.process import BenchmarkFailed, Launched
from studies.servers import Servers

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 60.0
LOOK_FOR_BEGIN_S = 0.005
LOOK_S = 0.01
# What a worker may still have to do after the last count: to ack it.
LAST_ACKS_S = 0.3
SIDES = {"publish": "its producer", "work": "its worker"}


class PeerMeasurement:
    """One peer on the servers that ours is measured on; `folder` takes what its processes print."""

    def __init__(self, peer: Peer, servers: Servers, folder: Path, environment: dict[str, str]) -> None:
        self._peer = peer
        self._servers = servers
        self._folder = folder
        self._environment = environment

    async def publish_then_consume(self, messages: int) -> list[Measured]:
        """Publishes a backlog with no worker there, then lets the worker drain it."""
        async with self._fresh(messages) as bench:
            with bench.producer() as producer:
                meter = Meter(producer=producer.process, **self._servers.processes)
                await bench.begun(producer, meter)
                await bench.ended(producer, meter)
                elapsed_s = float(producer.result()["elapsed_s"])
            published = self._measured(PUBLISH, messages, elapsed_s, meter)
            if (waiting := self._servers.waiting(bench.queue)) != messages:
                raise BenchmarkFailed(f"{waiting} of {messages} messages in the queue after the publish")
            await self._servers.quiet()
            with bench.worker() as worker:
                meter = Meter(sender=worker.process, **self._servers.processes)
                begun_s = await bench.first_sent(worker, meter)
                elapsed_s = await bench.all_sent(meter, worker) - begun_s
                await bench.stop(worker)
            consumed = self._measured(CONSUME, messages, elapsed_s, meter)
        return [published, consumed]

    async def both_at_once(self, messages: int) -> list[Measured]:
        """Publishes while the worker, there already, consumes: from the first publish to the last count."""
        async with self._fresh(messages) as bench:
            with bench.worker() as worker:
                await bench.ready(worker)
                await self._servers.quiet()
                with bench.producer() as producer:
                    meter = Meter(producer=producer.process, sender=worker.process, **self._servers.processes)
                    begun_s = await bench.begun(producer, meter)
                    elapsed_s = await bench.all_sent(meter, worker, producer) - begun_s
                    producer.check()
                await bench.stop(worker)
        return [self._measured(BOTH, messages, elapsed_s, meter)]

    def _measured(self, work: str, messages: int, elapsed_s: float, meter: Meter) -> Measured:
        return Measured.of(work, 1, messages, elapsed_s, meter, self._peer.name)

    @asynccontextmanager
    async def _fresh(self, messages: int) -> AsyncIterator["_Bench"]:
        """Queues of its own and an empty Redis; afterwards it must add up, and the queues go."""
        await self._servers.fresh()
        bench = _Bench(self._peer, self._servers, self._folder, self._environment, messages)
        try:
            yield bench
            await bench.audit()
        finally:
            await bench.close()


class _Bench:
    """The processes of one measurement, and what they have done so far."""

    def __init__(
        self, peer: Peer, servers: Servers, folder: Path, environment: dict[str, str], messages: int
    ) -> None:
        self.queue = f"peer-{secrets.token_hex(4)}"
        self._peer = peer
        self._servers = servers
        self._folder = folder / self.queue
        self._messages = messages
        self._settings = {
            **servers.settings,
            **peer.environment,
            **environment,
            "QUEUE_NAME": self.queue,
            "PYTHONPATH": str(ROOT),
        }
        self._redis = Redis(host=servers.redis.host, port=servers.redis.port)
        self._sent = 0

    def producer(self) -> Launched:
        return self._launched("publish", "--count", str(self._messages))

    def worker(self) -> Launched:
        arguments = (argument.format(count=self._messages) for argument in self._peer.worker)
        return self._launched("work", *arguments)

    async def ready(self, worker: Launched) -> None:
        """Returns when all of the worker's consumers are there."""
        async with asyncio.timeout(DEADLINE_S):
            while self._servers.consumers(self.queue) < self._peer.consumers:
                await self._look(LOOK_S, worker)

    async def begun(self, producer: Launched, meter: Meter) -> float:
        """The moment of the first publish; CPU time counts from there, so that no start of a process is in it."""
        async with asyncio.timeout(DEADLINE_S):
            while (begun_s := producer.said("begun_s")) is None:
                meter.start()
                await self._look(LOOK_FOR_BEGIN_S, producer)
        return float(begun_s)

    async def ended(self, producer: Launched, meter: Meter) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not producer.over:
                meter.sample()
                await asyncio.sleep(LOOK_S)

    async def first_sent(self, worker: Launched, meter: Meter) -> float:
        """The moment before the first message was seen sent: up to LOOK_FOR_BEGIN_S too early."""
        async with asyncio.timeout(DEADLINE_S):
            begun_s = time.monotonic()
            while not await self._count(worker):
                begun_s = time.monotonic()
                meter.start()
                await self._look(LOOK_FOR_BEGIN_S, worker)
        return begun_s

    async def all_sent(self, meter: Meter, worker: Launched, *others: Launched) -> float:
        """The moment when all were seen sent."""
        ends = time.monotonic() + DEADLINE_S
        while await self._count(worker) < self._messages:
            if time.monotonic() > ends:
                raise worker.failed(f"had sent {self._sent} of {self._messages} after {DEADLINE_S:g} s")
            for other in others:
                if other.over:
                    other.check()
            meter.sample()
            await self._look(LOOK_S, worker)
        ended_s = time.monotonic()
        meter.sample()
        return ended_s

    async def stop(self, worker: Launched) -> None:
        """Asks the worker to end, as its users would; how it ends is its own affair."""
        await asyncio.sleep(LAST_ACKS_S)
        worker.end()

    async def audit(self) -> None:
        """Raises BenchmarkFailed unless each message was counted once and acked."""
        counted, waiting = await self._count(None), self._servers.waiting(self.queue)
        if counted != self._messages or waiting:
            raise BenchmarkFailed(
                f"it does not add up: {counted} of {self._messages} sent, {waiting} left in the queue"
            )

    async def close(self) -> None:
        await self._redis.aclose()
        self._servers.rabbit.delete_queues(*(name.format(self.queue) for name in self._peer.queues))

    async def _count(self, worker: Launched | None) -> int:
        """How many messages are sent: by Redis, or by the worker's own word where it keeps no counters."""
        if self._peer.counts:
            self._sent = int(await self._redis.hget(counters_key(self.queue), "sent") or 0)
        elif worker:
            self._sent = int(worker.said("sent") or 0)
        return self._sent

    async def _look(self, pause_s: float, *watched: Launched) -> None:
        """A pause. Raises BenchmarkFailed if a process that should be running has ended."""
        for one in watched:
            if one.over:
                raise one.failed("ended before its time")
        await asyncio.sleep(pause_s)

    def _launched(self, side: str, *arguments: str) -> Launched:
        command = [sys.executable, "-m", f"studies.bench.peers.{self._peer.module}", side, *arguments]
        return Launched(command, self._settings, self._folder / side, SIDES[side])
