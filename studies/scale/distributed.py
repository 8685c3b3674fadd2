"""The sweep on RabbitMQ and Redis over sender processes and batch sizes, on queues and runs of its own.

Its queues are deleted and its runs forgotten. What stays in Redis: its messages in the totals and the histogram of all
runs (sms:stats, sms:latency), for good; and for RUN_TTL days a mark of each forgotten run (sms:run:RUN:forgotten) and
the counters of each of its senders (sms:sender:RUN-NUMBER).
"""

import asyncio
import contextlib
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np

from common.broker.rabbitmq import RabbitBroker, connect_broker
from common.errors import UnknownRun
from common.ledger.port import Ledger
from common.ledger.values import Outcomes, Snapshot
from common.messages import Outcome
from common.settings import Settings
from common.stores import connect_stores
from studies.scale.embedded import sample
from studies.scale.load import Load, LoadPoint
from studies.scale.processes import Child, StudyFailed
from studies.scale.progress import StudyProgress
from studies.scale.records import Records
from studies.timeline import Timeline, sampling

LOOK_S = 0.02
START_DEADLINE_S = 60.0
END_DEADLINE_S = 30.0
CLEAN_UP_DEADLINE_S = 30.0
# A run that has not moved for so long is stuck.
STUCK_S = 60.0
# For the progress bar's guess and for nothing else.
EXPECTED_PER_S = {"one": 15_000, "many": 300_000}
EXPECTED_START_S = 3.0


@asynccontextmanager
async def connected(
    settings: Settings, connect_timeout_s: float
) -> AsyncIterator[tuple["Distributed", dict[str, str]]]:
    """A study on the servers of the settings, and their versions. Raises Unavailable or Refused."""
    stores = await connect_stores(settings, connect_timeout_s)
    ledger = stores.ledger
    try:
        broker = await connect_broker(settings, "scale", connect_timeout_s, declares=False)
        rabbitmq = broker.server_version
        await broker.close()
        redis = str((await stores.client.info("server"))["redis_version"])
        yield Distributed(settings, ledger, connect_timeout_s), {"rabbitmq": rabbitmq, "redis_server": redis}
    finally:
        await ledger.close()


class Distributed:
    """Measures one load after another on the servers of the settings; made by `connected`."""

    def __init__(self, settings: Settings, ledger: Ledger, connect_timeout_s: float) -> None:
        self._settings = settings
        self._ledger = ledger
        self._connect_timeout_s = connect_timeout_s

    async def sweep(self, loads: Sequence[Load], records: Records[LoadPoint]) -> None:
        """Measures the points that are missing. Raises StudyFailed if one can't be had or does not add up."""
        missing = [load for load in loads if (load.processes, load.batch_size) not in records.measured]
        if missing and (others := await self._ledger.runs()):
            sys.stderr.write(
                f"The ledger holds other runs ({len(others)}), and the study's messages will stay in their common"
                " totals: REDIS_DB chooses another database.\n"
            )
        with StudyProgress([_expected_s(load) for load in missing]) as progress:
            for load in missing:
                progress.begin(load.name)
                point = await self._measured(load)
                records.add(point)
                progress.done(
                    f"{load.name}: {point.rate_per_s:,.0f} messages/s, {point.messages:,} messages"
                    f" in {point.elapsed_s:.1f} s"
                )

    async def _measured(self, load: Load) -> LoadPoint:
        run = f"scale-{secrets.token_hex(4)}"
        async with self._queues_of(run) as broker, AsyncExitStack() as started:
            senders = [
                await started.enter_async_context(self._sender(load, run, number))
                for number in range(load.processes)
            ]
            await self._listed(load, run, senders)
            producer = await started.enter_async_context(self._producer(load, run))
            timeline = Timeline()
            async with sampling(sample(self._ledger, run, timeline)):
                end = await self._settled(load, run, [producer, *senders])
            await producer.result(END_DEADLINE_S)
            for sender in senders:
                sender.look()
                sender.stop()
            for sender in senders:
                await sender.result(END_DEADLINE_S)
            await self._check(load, run, end, broker)
        timeline.note((end.last_settled_us - end.started_us) / 1e6, end.settled)
        return LoadPoint(
            processes=load.processes,
            batch_size=load.batch_size,
            messages=load.messages,
            sent=end.sent,
            failed=end.failed,
            elapsed_s=(end.last_settled_us - end.started_us) / 1e6,
            steady_per_s=timeline.steady_per_s(load.messages),
            producer_cpu_s=producer.cpu_s,
            senders_cpu_s=sum(sender.cpu_s for sender in senders),
            peak_sender_rss_bytes=max(sender.peak_rss_bytes for sender in senders),
        )

    @asynccontextmanager
    async def _queues_of(self, run: str) -> AsyncIterator[RabbitBroker]:
        """Queues named after the run; afterwards they are deleted, and the run is forgotten."""
        settings = self._settings.model_copy(update={"queue_name": run})
        broker = await connect_broker(settings, "scale", self._connect_timeout_s)
        try:
            yield broker
        finally:
            try:
                async with asyncio.timeout(CLEAN_UP_DEADLINE_S):
                    await self._forget(run)
                    await broker.delete_queues()
            finally:
                await broker.close()

    async def _listed(self, load: Load, run: str, senders: list[Child]) -> None:
        """Returns when all senders are there: the ledger lists them. Raises StudyFailed if they don't come."""
        names = {_name(run, number) for number in range(load.processes)}
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                while not names <= (await self._ledger.snapshot()).senders.keys():
                    _look_at(senders)
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise StudyFailed(
                f"{load.name}: not all senders are there after {START_DEADLINE_S:g} s"
            ) from None

    async def _settled(self, load: Load, run: str, watched: list[Child]) -> Snapshot:
        """The snapshot once every message is sent or failed. Raises StudyFailed if that stops coming nearer."""
        loop, settled, begun = asyncio.get_running_loop(), 0, False
        moved_at = loop.time()
        while loop.time() - moved_at < STUCK_S:
            _look_at(watched)
            with contextlib.suppress(UnknownRun):
                now = await self._ledger.snapshot(run)
                if not begun:
                    begun = True
                    for child in watched:
                        child.begin()
                if now.settled >= load.messages:
                    return now
                if now.settled > settled:
                    settled, moved_at = now.settled, loop.time()
            await asyncio.sleep(LOOK_S)
        raise StudyFailed(
            f"{load.name}: {settled:,} of {load.messages:,} messages settled, and none for {STUCK_S:g} s"
        )

    async def _check(self, load: Load, run: str, end: Snapshot, broker: RabbitBroker) -> None:
        """Raises StudyFailed unless each message is sent or failed, once, and no queue holds anything."""
        counted, waiting = await self._ledger.recount(run), sum((await broker.depths()).values())
        now = await self._ledger.snapshot(run)
        exact = end.settled == now.settled == now.published == load.messages
        proven = counted == {name: getattr(now, name) for name in counted}
        if not (exact and proven and now.sending == 0 and waiting == 0):
            raise StudyFailed(
                f"{load.name}: the run does not add up: {now.published:,} published, {now.sent:,} sent,"
                f" {now.failed:,} failed, counted one by one {counted}, {waiting:,} bodies in the queues"
            )

    async def _forget(self, run: str) -> None:
        """Takes the run off the ledger's record. One that broke off is given up first."""
        with contextlib.suppress(UnknownRun):
            await self._ledger.close_run(run)
            async for seqs in self._ledger.unsettled(run):
                nothing = np.zeros(seqs.size, np.int64)
                lost = np.full(seqs.size, Outcome.FAILED, np.uint8)
                await self._ledger.settle(run, Outcomes(seqs, lost, nothing))
            await self._ledger.forget(run)

    def _sender(self, load: Load, run: str, number: int) -> Child:
        arguments = ["--name", _name(run, number), "--concurrency", str(load.parameters.slots)]
        return self._smsim(f"{load.name}: sender {number + 1}", load, run, "send", *arguments)

    def _producer(self, load: Load, run: str) -> Child:
        arguments = ["--num-messages", str(load.messages), "--batch-size", str(load.batch_size), "--run", run]
        return self._smsim(f"{load.name}: producer", load, run, "produce", *arguments)

    def _smsim(self, what: str, load: Load, run: str, *arguments: str) -> Child:
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
        return Child(what, [sys.executable, "-m", "simulation.cli", *arguments], env)


def _name(run: str, number: int) -> str:
    return f"{run}-{number}"


def _look_at(children: Sequence[Child]) -> None:
    """Takes their CPU time and memory. Raises StudyFailed if one has ended other than well."""
    for child in children:
        if child.ended_badly:
            raise child.failed()
        child.look()


def _expected_s(load: Load) -> float:
    return EXPECTED_START_S + load.messages / EXPECTED_PER_S["one" if load.batch_size == 1 else "many"]
