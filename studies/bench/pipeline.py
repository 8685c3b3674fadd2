"""Measures producer and sender on RabbitMQ and Redis; every run must add up exactly, or the benchmark fails."""

import asyncio
import contextlib
import math
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from common.errors import UnknownRun
from common.ledger.redis import RedisLedger
from common.ledger.values import Snapshot
from studies.bench.figures import BOTH, Measured
from studies.meter import Meter
from studies.process import BenchmarkFailed, Launched
from studies.runs import audit, queue_names
from studies.servers import Servers
from studies.timeline import Timeline, margin

ROOT = Path(__file__).resolve().parents[2]
# Enough that no slot is ever waited for: at no send time a slot is held only from its claim to its settle.
SENDER_CONCURRENCY = 20_000
DEADLINE_S = 60.0
# The text of each message where ours is compared with peers: 100 characters.
TEXT = "This is a test of the emergency alert system. No action is needed, whatever else you may hear today."
# How exactly a beginning is seen, and how often the processes are looked at afterwards.
LOOK_FOR_BEGIN_S = 0.005
LOOK_S = 0.02


class Pipeline:
    """Producer and sender as processes, over servers that nobody else uses; `folder` takes what they print."""

    def __init__(self, servers: Servers, ledger: RedisLedger, folder: Path) -> None:
        self._servers = servers
        self._ledger = ledger
        self._folder = folder

    async def publish_then_consume(self, batch_size: int, messages: int) -> list[Measured]:
        """Publishes a backlog with no sender there, then lets one sender drain it."""
        async with self._fresh() as (run, settings):
            published = await self._publish(run, settings, batch_size, messages)
            waiting = self._servers.waiting(*queue_names(run))
            if waiting != math.ceil(messages / batch_size):
                raise BenchmarkFailed(f"run {run}: {waiting} bodies in the queue after the publish")
            await self._servers.quiet()
            consumed = await self._consume(run, settings, batch_size, messages)
            await self._audit(run, messages)
        return [published, consumed]

    async def both_at_once(self, batch_size: int, messages: int) -> list[Measured]:
        """Publishes while a sender, there already, consumes: from the producer's begin to the last settle."""
        async with self._fresh() as (run, settings):
            meter, _, _ = await self._both(run, settings, batch_size, messages)
            with self._launch("monitor.py", settings, "--once", "--run", run) as monitor:
                elapsed_s = float(monitor.result()["elapsed_s"])
            await self._audit(run, messages)
        return [Measured.of(BOTH, batch_size, messages, elapsed_s, meter)]

    async def steady(
        self, work: str, batch_size: int, messages: int, slots: int, mean_s: float
    ) -> list[Measured]:
        """The same with a send time. The rate is that of the steady phase, the elapsed time that of the whole run.

        Ramp and tail are left out as the scaling study leaves them out (studies.timeline.margin): `messages` /
        `slots` waves are settled, and the phase is from the middle of one of them to the middle of another.
        """
        async with self._fresh() as (run, settings):
            settings |= {"SENDER_CONCURRENCY": str(slots), "MEAN_PROCESSING_TIME": f"{mean_s:g}"}
            meter, timeline, last = await self._both(run, settings, batch_size, messages)
            await self._audit(run, messages)
        steady_per_s = timeline.steady_per_s(messages, margin(messages // slots))
        if steady_per_s is None:
            raise BenchmarkFailed(f"{work}: {messages} messages are too few for a steady phase")
        measured = Measured.of(work, batch_size, messages, _seconds(last), meter)
        return [replace(measured, steady_per_s=steady_per_s)]

    async def _both(
        self, run: str, settings: dict[str, str], batch_size: int, messages: int
    ) -> tuple[Meter, Timeline, Snapshot]:
        """A sender, and then a producer beside it, until all is settled: how that went, and the last of it."""
        with self._sender(settings) as sender:
            while not (await self._ledger.snapshot()).senders:
                await self._look(LOOK_S, sender)
            with self._producer(run, settings, batch_size, messages) as producer:
                meter = Meter(producer=producer.process, sender=sender.process, **self._servers.processes)
                await self._begun(run, meter, producer)
                timeline = Timeline()
                last = await self._settled(run, messages, meter, sender, producer, timeline=timeline)
                producer.check()
            sender.stop()
        timeline.note(_seconds(last), last.settled)
        return meter, timeline, last

    async def _publish(self, run: str, settings: dict[str, str], batch_size: int, messages: int) -> Measured:
        with self._producer(run, settings, batch_size, messages) as producer:
            meter = Meter(producer=producer.process, **self._servers.processes)
            await self._begun(run, meter, producer)
            while not producer.over:
                meter.sample()
                await asyncio.sleep(LOOK_S)
            meter.sample()
            report = producer.result()
        return Measured.of("publish", batch_size, messages, float(report["elapsed_s"]), meter)

    async def _consume(self, run: str, settings: dict[str, str], batch_size: int, messages: int) -> Measured:
        with self._sender(settings) as sender:
            meter = Meter(sender=sender.process, **self._servers.processes)
            before = await self._ledger.snapshot(run)
            while (now := await self._ledger.snapshot(run)).sending + now.settled == 0:
                before = now
                meter.start()
                await self._look(LOOK_FOR_BEGIN_S, sender)
            last = await self._settled(run, messages, meter, sender)
            sender.stop()
        # From the last look that saw no claim: up to LOOK_FOR_BEGIN_S too much, never too little.
        elapsed_s = (last.last_settled_us - before.now_us) / 1e6
        return Measured.of("consume", batch_size, messages, elapsed_s, meter)

    async def _begun(self, run: str, meter: Meter, *watched: Launched) -> None:
        """Returns when the run has begun; CPU time counts from there, so that no start of a process is in it."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                meter.start()
                with contextlib.suppress(UnknownRun):
                    await self._ledger.snapshot(run)
                    return
                await self._look(LOOK_FOR_BEGIN_S, *watched)

    async def _settled(
        self, run: str, messages: int, meter: Meter, *watched: Launched, timeline: Timeline | None = None
    ) -> Snapshot:
        """The snapshot once every message is sent or failed; the way there is noted in the timeline."""
        deadline = time.monotonic() + DEADLINE_S
        while (snapshot := await self._ledger.snapshot(run)).settled < messages:
            if timeline is not None:
                timeline.note((snapshot.now_us - snapshot.started_us) / 1e6, snapshot.settled)
            if time.monotonic() > deadline:
                raise BenchmarkFailed(f"run {run} is not settled after {DEADLINE_S:g} s: {snapshot}")
            ended = [one for one in watched if one.over]
            meter.sample()
            for one in ended:
                one.check()
            await asyncio.sleep(LOOK_S)
        meter.sample()
        return snapshot

    async def _look(self, pause_s: float, *watched: Launched) -> None:
        """A pause. Raises BenchmarkFailed if a process that should be running has ended."""
        for one in watched:
            if one.over:
                raise one.failed("ended before its time")
        await asyncio.sleep(pause_s)

    async def _audit(self, run: str, messages: int) -> None:
        await audit(self._ledger, self._servers.rabbit, run, run, messages)

    @asynccontextmanager
    async def _fresh(self) -> AsyncIterator[tuple[str, dict[str, str]]]:
        """A run's name and the settings for it: queues of its own, an empty ledger."""
        await self._servers.fresh()
        run = f"bench-{secrets.token_hex(4)}"
        settings = {
            **self._servers.settings,
            "QUEUE_NAME": run,
            "MEAN_PROCESSING_TIME": "0",
            "SENDER_CONCURRENCY": str(SENDER_CONCURRENCY),
        }
        yield run, settings
        self._servers.rabbit.delete_queues(*queue_names(run))

    def _producer(self, run: str, settings: dict[str, str], batch_size: int, messages: int) -> Launched:
        source = ["--num-messages", str(messages)]
        if batch_size == 1:
            source = ["--contacts", str(self._contacts(messages)), "--text", TEXT]
        size = ("--batch-size", str(batch_size))
        return self._launch("producer.py", settings, *source, *size, "--run", run)

    def _contacts(self, messages: int) -> Path:
        """A file of contacts, for texts of 100 characters as the peers have; random ones have up to 100."""
        file = self._folder / f"{messages}.csv"
        if not file.exists():
            file.write_text("number\n" + "".join(f"+{999_000_000_000 + i}\n" for i in range(messages)))
        return file

    def _sender(self, settings: dict[str, str]) -> Launched:
        return self._launch("sender.py", settings)

    def _launch(self, launcher: str, settings: dict[str, str], *arguments: str) -> Launched:
        command = [sys.executable, str(ROOT / launcher), *arguments]
        return Launched(command, settings, self._folder / f"{settings['QUEUE_NAME']}-{launcher}")


def _seconds(settled: Snapshot) -> float:
    """From a run's begin to its last settle, by the ledger's clock."""
    return (settled.last_settled_us - settled.started_us) / 1e6
