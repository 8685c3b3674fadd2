"""Measures `smsim simulate`: the whole pipeline in one process, with no server."""

import asyncio
import sys
from pathlib import Path

from studies.bench.figures import EMBEDDED, Measured
from studies.meter import Meter
from studies.process import BenchmarkFailed, Launched

LOOK_S = 0.02


async def simulate(work: str, messages: int, senders: int, mean_s: float, folder: Path) -> list[Measured]:
    """One embedded run; its CPU time includes the start of the process. Raises BenchmarkFailed unless it is exact."""
    command = [str(Path(sys.executable).parent / "smsim"), "simulate", "--num-messages", str(messages)]
    command += ["--senders", str(senders), "--mean-processing-time", f"{mean_s:g}", "--json"]
    with Launched(command, {}, folder) as running:
        meter = Meter(embedded=running.process)
        while not running.over:
            meter.sample()
            await asyncio.sleep(LOOK_S)
        meter.sample()
        summary = running.result()
    if not summary["published"] == summary["sent"] + summary["failed"] == messages:
        raise BenchmarkFailed(f"an embedded run does not add up: {summary}")
    return [Measured.of(work, None, messages, float(summary["elapsed_s"]), meter, EMBEDDED)]
