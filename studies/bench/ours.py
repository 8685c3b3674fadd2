"""Our producer and sender under measurement. Each run must add up exactly, or there are no figures."""

import contextlib
import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import UnknownRun
from studies.bench.figures import EMBEDDED, OURS, Measured, Work
from studies.bench.measure import Bench, measure_both
from studies.meter import Meter
from studies.process import Process, StudyFailed
from studies.servers import Pipeline, Servers
from studies.timeline import Timeline, margin

# Enough slots that none is waited for: without a send time, a slot is held only from claim to settle.
SLOTS = 20_000
# The text of each message where ours is compared with peers: 100 characters.
TEXT = "This is a test of the emergency alert system. No action is needed, whatever else you may hear today."


@dataclass(frozen=True)
class Ours:
    """Our pipeline.

    Attributes:
        servers: The servers that it is measured on.
        folder: Where files of contacts are kept.
    """

    servers: Servers
    folder: Path

    @asynccontextmanager
    async def opened(
        self, batch_size: int, messages: int, *, slots: int = SLOTS, mean_s: float = 0.0
    ) -> AsyncIterator["OurBench"]:
        """A queue of its own and an empty ledger."""
        await self.servers.fresh()
        pipeline = self.servers.pipeline("bench", sender_concurrency=slots, mean_processing_time=mean_s)
        source: list[object] = ["--num-messages", messages]
        if batch_size == 1:
            source = ["--contacts", self._contacts(messages), "--text", TEXT]
        yield OurBench(self.servers, pipeline, batch_size, messages, source)
        pipeline.delete_queues()

    async def steady(self, work: Work, *, slots: int, mean_s: float) -> list[Measured]:
        """Both at once with a send time. The rate is that of the steady phase (see `timeline.margin`)."""
        async with self.opened(work.batch_size or 1, work.messages, slots=slots, mean_s=mean_s) as bench:
            measured = await measure_both(bench, work.name)
            await bench.audit()
        steady_per_s = bench.timeline.steady_per_s(work.messages, margin(work.messages // slots))
        if steady_per_s is None:
            raise StudyFailed(f"{work.name}: {work.messages:,} messages are too few for a steady phase")
        return [replace(measured, steady_per_s=steady_per_s)]

    def _contacts(self, messages: int) -> Path:
        """A file of contacts, for texts of 100 characters as the peers have; random texts have up to 100."""
        file = self.folder / f"{messages}.csv"
        if not file.exists():
            file.write_text("number\n" + "".join(f"+{999_000_000_000 + i}\n" for i in range(messages)))
        return file


async def simulate(work: Work, senders: int, mean_s: float) -> list[Measured]:
    """One embedded run. Its CPU time includes the start of the process. Raises StudyFailed if it does not add up."""
    command = [sys.executable, "-m", "simulation.cli", "simulate", "--num-messages", str(work.messages)]
    command += ["--senders", str(senders), "--mean-processing-time", f"{mean_s:g}", "--json"]
    with Process("smsim simulate", command, isolated=True) as process:
        meter = Meter({EMBEDDED: process.pid})
        await process.ended(look=meter.sample)
        summary = process.result()
    if not summary["published"] == summary["sent"] + summary["failed"] == work.messages:
        raise StudyFailed(f"an embedded run does not add up: {summary}")
    return [Measured.of(EMBEDDED, work, float(summary["elapsed_s"]), meter)]


class OurBench(Bench):
    """One measurement of ours. Its clock is the ledger's.

    Attributes:
        timeline: How many messages were settled when.
    """

    who = OURS

    def __init__(
        self, servers: Servers, pipeline: Pipeline, batch_size: int, messages: int, source: list[object]
    ) -> None:
        self.servers = servers
        self.batch_size = batch_size
        self.messages = messages
        self.bodies = math.ceil(messages / batch_size)
        self.timeline = Timeline()
        self._pipeline = pipeline
        self._source = source

    def producer(self) -> Process:
        return self._pipeline.producer(*self._source, "--batch-size", self.batch_size)

    def worker(self) -> Process:
        return self._pipeline.sender()

    async def ready(self, worker: Process) -> None:
        await self._pipeline.ready(worker)

    async def begun_s(self, producer: Process) -> float | None:
        with contextlib.suppress(UnknownRun):
            return (await self.servers.ledger.snapshot(self._pipeline.queue)).started_us / 1e6
        return None

    async def idle_s(self, worker: Process) -> float | None:
        now = await self.servers.ledger.snapshot(self._pipeline.queue)
        return None if now.sending + now.settled else now.now_us / 1e6

    async def ended_s(self, worker: Process) -> float | None:
        now = await self.servers.ledger.snapshot(self._pipeline.queue)
        self.timeline.note_snapshot(now)
        return now.last_settled_us / 1e6 if now.settled >= self.messages else None

    def waiting(self) -> int:
        return self._pipeline.waiting()

    async def stop(self, worker: Process) -> None:
        worker.end()

    async def audit(self) -> None:
        await self._pipeline.audit(self.messages)
