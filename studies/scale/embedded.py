"""The pipeline's side of a point: an embedded run, as `smsim simulate` does it, with its settled count sampled."""

import asyncio
import contextlib
import secrets

from common.errors import UnknownRun
from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.messages import Lane
from common.publishing.random_source import RandomSource
from common.settings import Settings
from common.statistics import statistics
from simulation.pipeline import Simulation, fitting_batch_size, simulate
from studies.scale.point import Point, Task
from studies.timeline import SAMPLE_S, Timeline, margin, sampling

RUN = "scale"


async def run_pipeline(task: Task) -> Point:
    """Sends all messages; CPU time and memory are the caller's to fill in."""
    parameters, timeline = task.parameters, Timeline()
    settings = Settings(
        mean_processing_time=parameters.mean_s,
        processing_time_stddev=parameters.stddev_s,
        failure_rate=parameters.failure_rate,
        seed=parameters.seed,
    )
    seed = secrets.randbits(63) if parameters.seed is None else parameters.seed
    source, batch_size = RandomSource(task.messages, seed), fitting_batch_size(task.senders)
    simulation = Simulation(RUN, source, task.senders, batch_size, Lane.BULK, settings)
    ledger = MemoryLedger()
    async with sampling(sample(ledger, RUN, timeline)):
        end = await simulate(simulation, asyncio.Event(), live=False, ledger=ledger)
    timeline.note((end.last_settled_us - end.started_us) / 1e6, end.settled)
    stats = statistics(end)
    return Point(
        version="smsim",
        senders=task.senders,
        messages=task.messages,
        sent=end.sent,
        failed=end.failed,
        elapsed_s=stats.elapsed_s,
        steady_per_s=timeline.steady_per_s(task.messages, margin(parameters.messages_per_sender)),
        cpu_s=0.0,
        peak_in_flight=max(1, timeline.peak_in_flight),
        base_rss_bytes=0,
        peak_rss_bytes=0,
        p50_s=stats.p50_s,
        p95_s=stats.p95_s,
        p99_s=stats.p99_s,
        ideal_per_sender_per_s=1 / parameters.mean_s if parameters.mean_s else None,
    )


async def sample(ledger: Ledger, run: str, timeline: Timeline) -> None:
    """Notes how many messages of the run are settled, by the ledger's clock, until cancelled."""
    while True:
        with contextlib.suppress(UnknownRun):
            now = await ledger.snapshot(run)
            reached_us = now.now_us if now.settled < now.total else now.last_settled_us
            timeline.note((reached_us - now.started_us) / 1e6, now.settled, now.sending)
        await asyncio.sleep(SAMPLE_S)
