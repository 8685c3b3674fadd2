"""Measures `smsim simulate`: the whole pipeline in one process, without servers."""

import sys

from studies.bench.figures import EMBEDDED, Measured, Work
from studies.meter import Meter
from studies.process import Process, StudyFailed


async def simulate(work: Work, senders: int, mean_s: float) -> list[Measured]:
    """One embedded run. Its CPU time includes the start of the process. Raises StudyFailed if it does not add up."""
    command = [sys.executable, "-m", "simulation.cli", "simulate", "--num-messages", str(work.messages)]
    command += ["--senders", str(senders), "--mean-processing-time", f"{mean_s:g}", "--json"]
    with Process("smsim simulate", command, isolated=True) as process:
        meter = Meter({EMBEDDED: process.pid})
        await process.ended(look=meter.sample)
        summary = process.result()
    if not summary["published"] == summary["sent"] + summary["failed"] == work.messages:
        raise StudyFailed(f"an embedded run does not add up: {summary}")
    return [work.measured(float(summary["elapsed_s"]), meter, who=EMBEDDED)]
