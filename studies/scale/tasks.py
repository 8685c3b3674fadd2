"""What anybody would write first: a task for each sender, on plain asyncio. Measured beside the pipeline.

It does a part of the work only: no queue to lose a message from, no acks, no ledger but two counters.
"""

import asyncio
import random
import time
from array import array
from collections.abc import Iterator

import numpy as np

from common.messages import Message
from common.publishing.random_source import RandomSource
from studies.scale.point import Parameters, Point, Task
from studies.timeline import SAMPLE_S, Timeline, margin, sampling


async def run_tasks(task: Task) -> Point:
    """Sends all messages; CPU time and memory are the caller's to fill in."""
    parameters, timeline = task.parameters, Timeline()
    counters, times_s = {"sent": 0, "failed": 0}, array("f")
    random.seed(parameters.seed)
    messages = RandomSource(task.messages, parameters.seed or 0).messages(0)
    began = time.monotonic()
    async with sampling(_sample(timeline, counters, began)):
        async with asyncio.TaskGroup() as senders:
            for _ in range(task.senders):
                senders.create_task(_sender(messages, parameters, counters, times_s))
        elapsed_s = time.monotonic() - began
    timeline.note(elapsed_s, sum(counters.values()))
    p50, p95, p99 = np.percentile(times_s, (50, 95, 99)).tolist()
    return Point(
        version="plain",
        senders=task.senders,
        messages=task.messages,
        sent=counters["sent"],
        failed=counters["failed"],
        elapsed_s=elapsed_s,
        steady_per_s=timeline.steady_per_s(task.messages, margin(parameters.messages_per_sender)),
        cpu_s=0.0,
        peak_in_flight=task.senders,
        base_rss_bytes=0,
        peak_rss_bytes=0,
        p50_s=p50,
        p95_s=p95,
        p99_s=p99,
        ideal_per_sender_per_s=1 / parameters.mean_s if parameters.mean_s else None,
    )


async def _sender(
    messages: Iterator[Message], parameters: Parameters, counters: dict[str, int], times_s: "array[float]"
) -> None:
    for _ in messages:  # all senders take from the same iterator
        began = time.monotonic()
        await asyncio.sleep(max(0.0, random.gauss(parameters.mean_s, parameters.stddev_s)))
        counters["failed" if random.random() < parameters.failure_rate else "sent"] += 1
        times_s.append(time.monotonic() - began)


async def _sample(timeline: Timeline, counters: dict[str, int], began: float) -> None:
    while True:
        await asyncio.sleep(SAMPLE_S)
        timeline.note(time.monotonic() - began, sum(counters.values()))
