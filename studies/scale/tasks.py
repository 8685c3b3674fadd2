"""The plain version: a task for each sender, on asyncio alone. Measured beside the pipeline.

It does only a part of the work: no queue that keeps messages, no acks, and two counters in place of a ledger.
"""

import asyncio
import random
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from common.messages import Message
from common.publishing.random import RandomSource
from studies.scale.points import Parameters, Point, Task
from studies.timeline import SAMPLE_S, Timeline, margin, sampling


@dataclass
class Tally:
    """The work that the senders have done.

    Attributes:
        sent: Sends that succeeded.
        failed: Sends that failed.
        times_s: How long each send took.
    """

    sent: int = 0
    failed: int = 0
    times_s: "array[float]" = field(default_factory=lambda: array("f"))


async def run_tasks(task: Task) -> Point:
    """Sends all messages. CPU time and memory of the process are left to the caller."""
    parameters, timeline, tally = task.parameters, Timeline(), Tally()
    began_s = time.monotonic()
    async with sampling(_sample(timeline, tally, began_s)):
        await _send_all(task, tally)
        elapsed_s = time.monotonic() - began_s
    timeline.note(elapsed_s, tally.sent + tally.failed)
    p50_s, p95_s, p99_s = np.percentile(tally.times_s, (50, 95, 99)).tolist()
    return Point(
        version="plain",
        senders=task.senders,
        messages=task.messages,
        sent=tally.sent,
        failed=tally.failed,
        elapsed_s=elapsed_s,
        steady_per_s=timeline.steady_per_s(task.messages, margin(parameters.messages_per_sender)),
        peak_in_flight=task.senders,
        p50_s=p50_s,
        p95_s=p95_s,
        p99_s=p99_s,
        ideal_per_sender_per_s=parameters.ideal_per_s,
    )


async def _send_all(task: Task, tally: Tally) -> None:
    seed = task.parameters.seed
    random.seed(seed)
    messages = RandomSource(task.messages, seed or 0).messages(0)
    async with asyncio.TaskGroup() as senders:
        for _ in range(task.senders):
            senders.create_task(_sender(messages, task.parameters, tally))


async def _sender(messages: Iterator[Message], parameters: Parameters, tally: Tally) -> None:
    for _ in messages:  # all senders share the iterator
        began_s = time.monotonic()
        await asyncio.sleep(max(0.0, random.gauss(parameters.mean_s, parameters.stddev_s)))
        if random.random() < parameters.failure_rate:
            tally.failed += 1
        else:
            tally.sent += 1
        tally.times_s.append(time.monotonic() - began_s)


async def _sample(timeline: Timeline, tally: Tally, began_s: float) -> None:
    while True:
        await asyncio.sleep(SAMPLE_S)
        timeline.note(time.monotonic() - began_s, tally.sent + tally.failed)
