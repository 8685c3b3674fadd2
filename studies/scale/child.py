"""Measures one embedded point and prints it as JSON: `python -m studies.scale.child TASK`.

Each point has a process of its own, so that CPU time and memory are that point's alone.
"""

import asyncio
import contextlib
import resource
import sys
import time
from pathlib import Path

import msgspec
import uvloop

from studies.scale.embedded import run_pipeline
from studies.scale.points import Point, Task
from studies.scale.tasks import run_tasks


def measure(task: Task) -> Point:
    """The point, with the CPU time and the memory of this process."""
    # First a small run, so that costs that every process has do not count.
    at_once = msgspec.structs.replace(task.parameters, mean_s=0.0, stddev_s=0.0)
    with contextlib.suppress(OSError):  # Linux: the peak counts from here (man 5 proc, clear_refs)
        Path("/proc/self/clear_refs").write_text("5")
    _run(Task(task.version, 100, at_once))
    base_rss, began_cpu_s = _peak_rss_bytes(), time.process_time()
    point = _run(task)
    return msgspec.structs.replace(
        point,
        cpu_s=time.process_time() - began_cpu_s,
        base_rss_bytes=base_rss,
        peak_rss_bytes=_peak_rss_bytes(),
    )


def _run(task: Task) -> Point:
    """The pipeline runs on uvloop, as it always does; the plain version on asyncio's own loop."""
    return asyncio.run(run_tasks(task)) if task.version == "plain" else uvloop.run(run_pipeline(task))


def _peak_rss_bytes() -> int:
    """The most memory that this process has had."""
    # On Linux a process inherits ru_maxrss from its parent, so that is the second choice.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    print(msgspec.json.encode(measure(msgspec.json.decode(sys.argv[1], type=Task))).decode())
