"""The memory of a sender against what it has in flight, and of a producer against what it publishes."""

import asyncio
import secrets
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis

from common.ledger.redis import RedisLedger
from simulation.pipeline import fitting_batch_size
from studies.meter import Meter
from studies.process import BenchmarkFailed, Launched
from studies.runs import audit, queue_names
from tests.servers import RabbitServer, RedisServer

ROOT = Path(__file__).resolve().parents[2]
MEAN_S = 1.0
# A backlog of so many times the slots keeps them full for some seconds.
BACKLOG = 4
PRODUCER_BATCH = 512
DRAIN_SLOTS = 20_000
LOOK_S = 0.02
PATIENCE_S = 120.0


class Services:
    """Producers and senders as processes on servers that nobody else uses. An async context manager."""

    def __init__(self, rabbit: RabbitServer, redis: RedisServer, folder: Path) -> None:
        self._rabbit = rabbit
        self._redis = redis
        self._folder = folder
        self._ledger = RedisLedger(Redis(host=redis.host, port=redis.port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._ledger.close()

    async def sender(self, slots: int) -> dict[str, Any]:
        """A sender that works off a backlog at 1 s a send: its memory with nothing to do, and at its most."""
        run, settings = self._fresh(slots, MEAN_S)
        batch_size, messages = fitting_batch_size(slots), BACKLOG * slots
        with self._sender(run, settings, "idle") as sender:
            meter = Meter(sender=sender.process)
            await self._ready(sender)
            meter.sample()
            idle_mb = meter.peak_mb()["sender"]
            sender.stop()
        with self._producer(run, settings, messages, batch_size) as producer:
            await self._ended(producer)
        most = 0
        with self._sender(run, settings, "sender") as sender:
            meter, deadline = Meter(sender=sender.process), time.monotonic() + PATIENCE_S
            while (now := await self._ledger.snapshot(run)).settled < messages:
                meter.sample()
                most = max(most, now.sending)
                await self._look(sender, deadline, str(now))
            sender.stop()
        await self._over(run, messages)
        peak_mb = meter.peak_mb()["sender"]
        return {
            "slots": slots,
            "batch_size": batch_size,
            "most_in_flight": most,
            "idle_mb": round(idle_mb, 1),
            "peak_mb": round(peak_mb, 1),
            "bytes_per_message": round((peak_mb - idle_mb) * 1e6 / most),
        }

    async def producer(self, messages: int) -> dict[str, Any]:
        """A producer while a sender settles what it publishes, at no send time."""
        run, settings = self._fresh(DRAIN_SLOTS, 0.0)
        async with AsyncExitStack() as closing:
            sender = closing.enter_context(self._sender(run, settings, "sender"))
            await self._ready(sender)
            producer = closing.enter_context(self._producer(run, settings, messages, PRODUCER_BATCH))
            meter, deadline = Meter(producer=producer.process), time.monotonic() + PATIENCE_S
            while not producer.over:
                meter.sample()
                await self._look(sender, deadline, run)
            producer.check()
            while (now := await self._ledger.snapshot(run)).settled < messages:
                await self._look(sender, deadline, str(now))
            sender.stop()
        await self._over(run, messages)
        peak_mb = round(meter.peak_mb()["producer"], 1)
        return {"messages": messages, "batch_size": PRODUCER_BATCH, "peak_mb": peak_mb}

    def _fresh(self, slots: int, mean_s: float) -> tuple[str, dict[str, str]]:
        """A run's name, which is its queue's too, and the settings for it."""
        self._redis.flush()
        run = f"memory-{secrets.token_hex(4)}"
        return run, {
            "RABBITMQ_HOST": self._rabbit.host,
            "RABBITMQ_PORT": str(self._rabbit.port),
            "REDIS_HOST": self._redis.host,
            "REDIS_PORT": str(self._redis.port),
            "QUEUE_NAME": run,
            "SENDER_CONCURRENCY": str(slots),
            "MEAN_PROCESSING_TIME": str(mean_s),
        }

    def _sender(self, run: str, settings: dict[str, str], name: str) -> Launched:
        return Launched([sys.executable, str(ROOT / "sender.py")], settings, self._folder / f"{run}-{name}")

    def _producer(self, run: str, settings: dict[str, str], messages: int, batch_size: int) -> Launched:
        command = [sys.executable, str(ROOT / "producer.py"), "--num-messages", str(messages), "--run", run]
        command += ["--batch-size", str(batch_size)]
        return Launched(command, settings, self._folder / f"{run}-producer")

    async def _ready(self, sender: Launched) -> None:
        """Returns when a sender is there."""
        deadline = time.monotonic() + PATIENCE_S
        while not (await self._ledger.snapshot()).senders:
            await self._look(sender, deadline, "no sender")

    async def _ended(self, process: Launched) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not process.over:
            if time.monotonic() > deadline:
                raise process.failed(f"is not done after {PATIENCE_S:g} s")
            await asyncio.sleep(LOOK_S)
        process.check()

    async def _look(self, sender: Launched, deadline: float, last: str) -> None:
        """A pause. Raises BenchmarkFailed if the sender has ended, or it takes too long."""
        if sender.over:
            raise sender.failed("ended before its time")
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"not done after {PATIENCE_S:g} s: {last}")
        await asyncio.sleep(LOOK_S)

    async def _over(self, run: str, messages: int) -> None:
        await audit(self._ledger, self._rabbit, run, run, messages)
        self._rabbit.delete_queues(*queue_names(run))
