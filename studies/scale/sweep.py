"""A sweep: measures the points that are missing, one after the other, and keeps each at once."""

import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from common.progress import ProgressBar
from studies.process import Process, StudyFailed
from studies.scale.points import Load, Parameters, Point, Task
from studies.scale.records import P, R, Records

W = TypeVar("W", Task, Load)


async def sweep(wanted: Sequence[W], records: Records[P, R], measure: Callable[[W], Awaitable[R]]) -> None:
    """Measures the missing points. Raises StudyFailed if one can't be measured or does not add up."""
    missing = [one for one in wanted if one.name not in records.measured]
    with ProgressBar("points", len(missing)) as progress:
        for done, one in enumerate(missing):
            progress.update(done, one.name)
            point = await measure(one)
            if point.sent + point.failed != one.messages:
                raise StudyFailed(
                    f"{one.name}: sent {point.sent:,} + failed {point.failed:,} is not {one.messages:,}:"
                    " the sweep ends here"
                )
            records.add(point)
            progress.print(point.summary)


def ladder(most: int) -> list[int]:
    """1, 2, 5, 10 ... up to `most`."""
    steps, decade = [], 1
    while decade <= most:
        steps += [decade * step for step in (1, 2, 5) if decade * step <= most]
        decade *= 10
    return steps


def tasks_of(senders: Iterable[int], plain_max: int, parameters: Parameters) -> list[Task]:
    """The points of an embedded sweep: few senders first, and beside each point of ours the plain one."""
    return [
        Task(version, count, parameters)
        for count in senders
        for version in ("smsim", "plain")
        if version == "smsim" or count <= plain_max
    ]


async def in_a_process(task: Task) -> Point:
    """The point, measured in a process of its own. Raises StudyFailed."""
    command = [sys.executable, "-m", "studies.scale.child", msgspec.json.encode(task).decode()]
    with Process(task.name, command) as child:
        await child.ended()
        return msgspec.convert(child.result(), Point)
