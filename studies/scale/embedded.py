"""The pipeline at an embedded point: a run as `smsim simulate` does it, whose settled count is sampled."""

import asyncio
import contextlib
import secrets

from common.errors import UnknownRun
from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.messages import Lane
from common.publishing.random import RandomSource
from common.settings import Settings
from common.statistics import statistics
from simulation.pipeline import Simulation, fitting_batch_size, simulate
from studies.scale.points import Point, Task
from studies.timeline import SAMPLE_S, Timeline, margin, sampling

RUN = "scale"


async def run_pipeline(task: Task) -> Point:
    """Sends all messages. CPU time and memory of the process are left to the caller."""
    parameters, timeline, ledger = task.parameters, Timeline(), MemoryLedger()
    async with sampling(sample(ledger, RUN, timeline)):
        end = await simulate(_simulation(task), asyncio.Event(), live=False, ledger=ledger)
    timeline.note_snapshot(end)
    stats = statistics(end)
    return Point(
        version="smsim",
        senders=task.senders,
        messages=task.messages,
        sent=end.sent,
        failed=end.failed,
        elapsed_s=stats.elapsed_s,
        steady_per_s=timeline.steady_per_s(task.messages, margin(parameters.messages_per_sender)),
        peak_in_flight=max(1, timeline.peak_in_flight),
        p50_s=stats.p50_s,
        p95_s=stats.p95_s,
        p99_s=stats.p99_s,
        ideal_per_sender_per_s=parameters.ideal_per_s,
    )


def _simulation(task: Task) -> Simulation:
    parameters = task.parameters
    settings = Settings(
        mean_processing_time=parameters.mean_s,
        processing_time_stddev=parameters.stddev_s,
        failure_rate=parameters.failure_rate,
        seed=parameters.seed,
    )
    seed = secrets.randbits(63) if parameters.seed is None else parameters.seed
    return Simulation(
        run=RUN,
        source=RandomSource(task.messages, seed),
        senders=task.senders,
        batch_size=fitting_batch_size(task.senders),
        lane=Lane.BULK,
        settings=settings,
    )


async def sample(ledger: Ledger, run: str, timeline: Timeline) -> None:
    """Notes how many messages of the run are settled, by the ledger's clock, until cancelled."""
    while True:
        with contextlib.suppress(UnknownRun):
            timeline.note_snapshot(await ledger.snapshot(run))
        await asyncio.sleep(SAMPLE_S)
