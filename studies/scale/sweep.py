"""The sweep over the number of senders: each point in a process of its own, the two versions in turn."""

import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec

from studies.scale.conditions import conditions
from studies.scale.point import Parameters, Point, Task
from studies.scale.processes import Child, StudyFailed
from studies.scale.progress import StudyProgress
from studies.scale.records import Records

# What either version can do at most, roughly: for the progress bar's guess and for nothing else.
EXPECTED_PER_S = {"smsim": 400_000, "plain": 30_000}
EXPECTED_START_S = 0.5

Measure = Callable[[Task], Awaitable[Point]]


def ladder(most: int) -> list[int]:
    """1, 2, 5, 10 ... up to `most`."""
    steps, decade = [], 1
    while decade <= most:
        steps += [decade * step for step in (1, 2, 5) if decade * step <= most]
        decade *= 10
    return steps


def tasks_of(senders: Iterable[int], plain_max: int, parameters: Parameters) -> list[Task]:
    """The points to measure, in their order: few senders first, and beside each point of ours the plain one."""
    return [
        Task(version, count, parameters)
        for count in senders
        for version in ("smsim", "plain")
        if version == "smsim" or count <= plain_max
    ]


def open_records(folder: Path, parameters: Parameters, fresh: bool) -> Records[Point]:
    """What is measured so far. Raises UsageError."""
    return Records(folder, "points", Point, conditions(parameters), fresh)


async def sweep(tasks: list[Task], records: Records[Point], measure: Measure) -> None:
    """Measures the points that are missing. Raises StudyFailed if one can't be had or does not add up."""
    missing = [task for task in tasks if (task.version, task.senders) not in records.measured]
    with StudyProgress([_expected_s(task) for task in missing]) as progress:
        for task in missing:
            progress.begin(task.name)
            point = await measure(task)
            if not point.adds_up:
                raise StudyFailed(
                    f"{task.name}: sent {point.sent:,} + failed {point.failed:,} is not {task.messages:,}:"
                    " the sweep ends here"
                )
            records.add(point)
            progress.done(_line(point))


async def in_a_process(task: Task) -> Point:
    """The point, measured in a process of its own. Raises StudyFailed if that ends badly."""
    command = [sys.executable, "-m", "studies.scale.child", msgspec.json.encode(task).decode()]
    async with Child(task.name, command) as child:
        return msgspec.json.decode(await child.result(), type=Point)


def _expected_s(task: Task) -> float:
    at_their_time = task.parameters.messages_per_sender * task.parameters.mean_s
    return EXPECTED_START_S + max(at_their_time, task.messages / EXPECTED_PER_S[task.version])


def _line(point: Point) -> str:
    steady = point.steady_per_s
    rate = (
        f"{point.rate_per_s:,.0f} messages/s" if steady is None else f"{steady:,.0f} messages/s once steady"
    )
    return (
        f"{point.version:>5} {point.senders:>10,} senders: {rate}, {point.messages:,} messages in"
        f" {point.elapsed_s:.1f} s, {point.cpu_s:.1f} CPU s, {point.peak_rss_bytes / 1e6:,.0f} MB"
    )
