"""What every service takes with 5, 5,000 and 500,000 messages: `make volumes`, `python -m studies.capacity.volumes`.

Starts RabbitMQ, Redis, a sender and a monitor of its own and lets `smsim stats` watch them while producers publish.
Writes samples, charts and volumes.json into `--out`; prints a table. Every run must add up exactly, else it fails.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from common.cli import EXIT_DONE, Parser, whole
from common.ledger.redis import RedisLedger
from studies.command import measured_into
from studies.process import BenchmarkFailed, Launched
from studies.record import machine, versions
from studies.runs import audit
from tests.servers import RabbitServer, RedisServer

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "capacity"
VOLUMES = [5, 5_000, 500_000]
QUEUE = "volumes"
LOOK_S = 0.2
# A study may take as long as its messages take at this pace, a tenth of what two cores carry, and so much on top.
SLOWEST_PER_S = 5_000
PATIENCE_S = 60.0
SETTINGS = {
    "QUEUE_NAME": QUEUE,
    "BATCH_SIZE": "100",
    "MEAN_PROCESSING_TIME": "1",
    "SENDER_CONCURRENCY": "50000",
    "MONITOR_UPDATE_INTERVAL": "1",
}


def main() -> int:
    """Reads the arguments and measures."""
    parser = Parser(
        "studies.capacity.volumes", "Records CPU and memory of every service against the volume of a run."
    )
    parser.add_argument("--volumes", type=whole(1), nargs="+", default=VOLUMES, metavar="N")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the results (default: {OUT})")
    args = parser.parse_args()
    if len(set(args.volumes)) < len(args.volumes):
        parser.error("argument --volumes: each only once, for the runs are called by them")
    results = measured_into(args.out / "volumes.json", parser.prog, _measure(args))
    print(markdown(results))
    return EXIT_DONE


def markdown(results: dict[str, Any]) -> str:
    """One row a service, with its CPU time and its peak of memory in each run."""
    runs = results["runs"]
    heads = [f"{run['volume']:,} in {run['elapsed_s']:.1f} s: CPU s | peak MB" for run in runs]
    rows = [f"| service | {' | '.join(heads)} |", f"| --- |{' ---: |' * 2 * len(runs)}"]
    for name in runs[-1]["services"]:
        cells = [run["services"].get(name, {"cpu_s": 0.0, "peak_mb": 0.0}) for run in runs]
        row = " | ".join(f"{cell['cpu_s']:.2f} | {cell['peak_mb']:.0f}" for cell in cells)
        rows.append(f"| {name} | {row} |")
    return "\n".join(rows)


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    with RabbitServer() as rabbit, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
        ledger = RedisLedger(Redis(host=redis.host, port=redis.port))
        settings = SETTINGS | {
            "RABBITMQ_HOST": rabbit.host,
            "RABBITMQ_PORT": str(rabbit.port),
            "REDIS_HOST": redis.host,
            "REDIS_PORT": str(redis.port),
        }
        try:
            with (
                Launched(
                    [sys.executable, str(ROOT / "sender.py")], settings, Path(folder) / "sender"
                ) as sender,
                Launched(
                    [sys.executable, str(ROOT / "monitor.py")], settings, Path(folder) / "monitor"
                ) as monitor,
            ):
                deadline = time.monotonic() + PATIENCE_S
                while not (await ledger.snapshot()).senders:
                    await _look(deadline, sender, monitor)
                watched = {
                    "rabbitmq": rabbit.pid,
                    "redis": redis.pid,
                    "sender": sender.process.pid,
                    "monitor": monitor.process.pid,
                }
                with Launched(_command(args, watched), settings, Path(folder) / "stats") as stats:
                    deadline = time.monotonic() + _patience_s(args.volumes)
                    while not stats.over:
                        await _look(deadline, sender, monitor)
                    summary = stats.result()
                sender.stop()
                monitor.stop()
            for volume in args.volumes:
                await audit(ledger, rabbit, QUEUE, f"run-{volume}", volume)
        finally:
            await ledger.close()
        return {
            "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine(),
            "versions": versions(rabbit, redis),
            "settings": SETTINGS,
            "runs": summary["runs"],
        }


def _command(args: argparse.Namespace, watched: dict[str, int | None]) -> list[str]:
    smsim = str(Path(sys.executable).with_name("smsim"))
    command = [smsim, "stats", "--json", "--interval", "0.25", "--out", str(args.out.resolve())]
    command += ["--watch", *(f"{pid}={name}" for name, pid in watched.items())]
    command += ["--volumes", ",".join(map(str, args.volumes)), "--"]
    return [
        *command,
        sys.executable,
        str(ROOT / "producer.py"),
        "--num-messages",
        "{n}",
        "--run",
        "run-{n}",
        "--wait",
    ]


def _patience_s(volumes: Sequence[int]) -> float:
    return sum(PATIENCE_S + volume / SLOWEST_PER_S for volume in volumes)


async def _look(deadline: float, *watched: Launched) -> None:
    """A pause. Raises BenchmarkFailed if a process that should be running has ended, or the time is over."""
    for one in watched:
        if one.over:
            raise one.failed("ended before its time")
    if time.monotonic() > deadline:
        raise BenchmarkFailed("not done in time: is a server down, or the machine too slow?")
    await asyncio.sleep(LOOK_S)


if __name__ == "__main__":
    sys.exit(main())
