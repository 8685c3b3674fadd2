"""The sweep on RabbitMQ and Redis over sender processes and batch sizes, on queues and runs of its own.

Its queues are deleted and its runs forgotten. Redis keeps its messages in the totals and the histogram of all runs
(sms:stats, sms:latency). For RUN_TTL days it also keeps a mark of each forgotten run (sms:run:RUN:forgotten) and the
counters of each of its senders (sms:sender:RUN-NUMBER).
"""

import asyncio
import contextlib
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

import numpy as np

from common.broker.rabbitmq import RabbitBroker, connect_broker
from common.errors import UnknownRun
from common.ledger.values import Outcomes, Snapshot
from common.messages import Outcome
from common.settings import Settings
from common.stores import RedisStores, connect_stores
from studies import runs
from studies.meter import Meter
from studies.process import Process, until
from studies.scale.points import Load, LoadParameters, LoadPoint
from studies.scale.records import Records
from studies.scale.sweep import sweep
from studies.timeline import Timeline

PRODUCER = "producer"


@asynccontextmanager
async def connected(
    settings: Settings, connect_timeout_s: float
) -> AsyncIterator[tuple["Distributed", dict[str, str]]]:
    """A study on the servers of the settings, and the versions of these. Raises Unavailable or Refused."""
    async with await connect_stores(settings, connect_timeout_s) as stores:
        broker = await connect_broker(settings, "scale", connect_timeout_s, declares=False)
        rabbitmq = broker.server_version
        await broker.close()
        redis = str((await stores.client.info("server"))["redis_version"])
        study = Distributed(settings, stores, connect_timeout_s)
        yield study, {"rabbitmq": rabbitmq, "redis_server": redis}


class Distributed:
    """Measures one load after another on the servers of the settings; made by `connected`."""

    def __init__(self, settings: Settings, stores: RedisStores, connect_timeout_s: float) -> None:
        self._settings = settings
        self._ledger = stores.ledger
        self._client = stores.client
        self._connect_timeout_s = connect_timeout_s

    async def sweep(self, loads: Sequence[Load], records: Records[LoadParameters, LoadPoint]) -> None:
        """Measures the points that are missing. Raises StudyFailed if one can't be measured or does not add up."""
        if any(load.name not in records.measured for load in loads) and (others := await self._ledger.runs()):
            sys.stderr.write(
                f"The ledger holds other runs ({len(others)}), and the study's messages will stay in their common"
                " totals: STACK chooses another prefix.\n"
            )
        await sweep(loads, records, self._measured)

    async def _measured(self, load: Load) -> LoadPoint:
        run = f"scale-{secrets.token_hex(4)}"
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(self._queues_of(run))
            processes = stack.enter_context(ExitStack())
            senders = {
                f"{run}-{number}": processes.enter_context(_sender(load, run, number))
                for number in range(load.processes)
            }
            await self._listed(load, senders)
            producer = processes.enter_context(_producer(load, run))
            meter = Meter({PRODUCER: producer.pid, **{name: one.pid for name, one in senders.items()}})
            timeline = Timeline()
            end = await self._settled(load, run, meter, timeline, [producer, *senders.values()])
            producer.check()
            meter.sample()
            for sender in senders.values():
                sender.stop()
            for sender in senders.values():
                sender.check()
            await runs.audit(self._ledger, run, load.messages, sum((await broker.depths()).values()))
        return _point(load, end, meter, timeline)

    async def _settled(
        self, load: Load, run: str, meter: Meter, timeline: Timeline, watched: Sequence[Process]
    ) -> Snapshot:
        """The last snapshot of the run, with the way there in the timeline."""

        def look(now: Snapshot) -> None:
            meter.sample()
            timeline.note_snapshot(now)

        await runs.begun(self._ledger, run, *watched, look=meter.start)
        return await runs.settled(self._ledger, run, load.messages, *watched, look=look)

    @asynccontextmanager
    async def _queues_of(self, run: str) -> AsyncIterator[RabbitBroker]:
        """Queues named after the run. Afterwards they are deleted, and the run is forgotten."""
        settings = self._settings.model_copy(update={"queue_name": run})
        broker = await connect_broker(settings, "scale", self._connect_timeout_s)
        try:
            yield broker
        finally:
            try:
                async with asyncio.timeout(30.0):
                    await self._forget(run)
                    if await self._client.get(self._client.names.queue) == run.encode():
                        await self._client.delete(self._client.names.queue)
                    await broker.delete_queues()
            finally:
                await broker.close()

    async def _listed(self, load: Load, senders: dict[str, Process]) -> None:
        """Waits until the ledger lists all senders."""

        async def all_listed() -> bool:
            return senders.keys() <= (await self._ledger.snapshot()).senders.keys()

        await until(all_listed, *senders.values(), what=f"{load.name}: all senders have started")

    async def _forget(self, run: str) -> None:
        """Removes the run from the ledger. A run that broke off is settled as failed first."""
        with contextlib.suppress(UnknownRun):
            await self._ledger.close_run(run)
            async for seqs in self._ledger.unsettled(run):
                no_time = np.zeros(seqs.size, np.int64)
                failed = np.full(seqs.size, Outcome.FAILED, np.uint8)
                await self._ledger.settle(run, Outcomes(seqs, failed, no_time))
            await self._ledger.forget(run)


def _point(load: Load, end: Snapshot, meter: Meter, timeline: Timeline) -> LoadPoint:
    cpu_s, peak_bytes = meter.cpu_s(), meter.peak_bytes()
    producer_cpu_s = cpu_s.pop(PRODUCER)
    del peak_bytes[PRODUCER]
    return LoadPoint(
        processes=load.processes,
        batch_size=load.batch_size,
        messages=load.messages,
        sent=end.sent,
        failed=end.failed,
        elapsed_s=runs.elapsed_s(end),
        steady_per_s=timeline.steady_per_s(load.messages),
        producer_cpu_s=producer_cpu_s,
        senders_cpu_s=sum(cpu_s.values()),
        peak_sender_rss_bytes=max(peak_bytes.values()),
    )


def _sender(load: Load, run: str, number: int) -> Process:
    arguments = ["send", "--name", f"{run}-{number}", "--concurrency", str(load.parameters.slots)]
    return _smsim(f"{load.name}: sender {number + 1}", load, run, arguments)


def _producer(load: Load, run: str) -> Process:
    arguments = ["produce", "--num-messages", str(load.messages), "--batch-size", str(load.batch_size)]
    return _smsim(f"{load.name}: producer", load, run, [*arguments, "--run", run])


def _smsim(name: str, load: Load, run: str, arguments: list[str]) -> Process:
    parameters = load.parameters
    env = {
        "QUEUE_NAME": run,
        "MEAN_PROCESSING_TIME": f"{parameters.mean_s:g}",
        "PROCESSING_TIME_STDDEV": f"{parameters.stddev_s:g}",
        "FAILURE_RATE": f"{parameters.failure_rate:g}",
        "LOG_LEVEL": "WARNING",
    }
    if parameters.seed is not None:
        env["SEED"] = str(parameters.seed)
    return Process(name, [sys.executable, "-m", "simulation.cli", *arguments], env=env, end_deadline_s=30.0)
