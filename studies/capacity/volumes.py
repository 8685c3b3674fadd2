"""CPU and memory of every service with 5, 5,000 and 500,000 messages: `make volumes`, or this module.

Starts RabbitMQ, Redis, a sender and a monitor of its own, and samples them with the tools of `smsim stats` while
producers publish. Writes samples, charts and volumes.json into `--out`; prints a table. Every run must add up exactly.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from common.cli import whole
from common.errors import UsageError
from studies import DOCS, ROOT
from studies.command import run_study, study_parser
from studies.page import Column, table
from studies.process import StudyFailed
from studies.record import Record
from studies.servers import Servers
from studies.stats.figures import Share
from studies.stats.processes import Processes
from studies.stats.report import RunSummary, Summary, write
from studies.stats.sampling import Sampler, Timing
from studies.stats.study import Plan, Study

SETTINGS = {
    "BATCH_SIZE": "100",
    "MEAN_PROCESSING_TIME": "1",
    "SENDER_CONCURRENCY": "50000",
    "MONITOR_UPDATE_INTERVAL": "1",
}


class VolumesRecord(Record, frozen=True, kw_only=True):
    """The results of `make volumes`.

    Attributes:
        settings: The settings of the services.
        runs: The runs, with the share of each service.
    """

    settings: dict[str, str]
    runs: list[RunSummary]


def main() -> int:
    """Reads the arguments and measures."""
    parser = study_parser(
        "studies.capacity.volumes",
        "Records CPU and memory of every service against the volume of a run.",
        out=DOCS / "capacity",
    )
    parser.add_argument("--volumes", type=whole(1), nargs="+", default=[5, 5_000, 500_000], metavar="N")
    return run_study(parser, _measure, markdown, file="volumes.json")


def markdown(results: VolumesRecord) -> str:
    """A row for each service, with its CPU time and its peak memory in each run."""
    columns = [Column[str]("service", lambda name: name, left=True)]
    for run in results.runs:
        columns += _columns(run)
    return f"{table(columns, list(results.runs[-1].services))}\n\n{results.conditions}"


def _columns(run: RunSummary) -> list[Column[str]]:
    absent = Share(cpu_s=0.0, cpu_percent=None, peak_mb=0.0, before_mb=None, after_mb=None)
    return [
        Column(
            f"{run.volume:,} in {run.elapsed_s:.1f} s: CPU s",
            lambda name: f"{run.services.get(name, absent).cpu_s:.2f}",
        ),
        Column("peak MB", lambda name: f"{run.services.get(name, absent).peak_mb:.0f}"),
    ]


async def _measure(args: argparse.Namespace) -> VolumesRecord:
    if len(set(args.volumes)) < len(args.volumes):
        raise UsageError("--volumes: each only once, since the runs are named after them")
    async with Servers.started() as servers:
        pipeline = servers.pipeline("volumes", **SETTINGS)
        with pipeline.sender() as sender, pipeline.launcher("monitor") as monitor:
            await pipeline.ready(sender, monitor)
            pids = {**servers.pids, "sender": sender.pid, "monitor": monitor.pid}
            summary = await _sampled(args.out, args.volumes, pids, pipeline.environment)
            for process in sender, monitor:
                process.end()
        if summary.ended_s or any(run.exit_code for run in summary.runs):
            raise StudyFailed(f"a service ended, or a producer failed: {summary.ended_s}, {summary.runs}")
        for volume in args.volumes:
            await pipeline.audit(volume, run=f"run-{volume}")
        return VolumesRecord(**servers.conditions(), settings=SETTINGS, runs=summary.runs)


async def _sampled(
    out: Path, volumes: list[int], pids: dict[str, int], environment: dict[str, str]
) -> Summary:
    """Samples these processes while producers publish, one for each volume."""
    processes, stop = Processes(), asyncio.Event()
    for name, pid in pids.items():
        processes.add(pid, name)
    command = [
        sys.executable,
        str(ROOT / "producer.py"),
        "--num-messages",
        "{n}",
        "--run",
        "run-{n}",
        "--wait",
    ]
    study = Study(Sampler([processes], Timing(interval_s=0.25), stop), processes, stop)
    await study.carry_out(Plan(command, volumes, environment=environment))
    return write(out, study.sampler, study.runs)


if __name__ == "__main__":
    sys.exit(main())
