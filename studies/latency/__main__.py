"""How long a message takes from the moment it is due to its settle: `make latency`, `python -m studies.latency`.

Open arrivals: `producer.py --rate R` publishes each message when it is due, whatever became of those before, and a
message's latency counts from that moment, so that a stall is felt by all that came due in it (no coordinated
omission). One sender, with no send time, settles them. First runs as fast as it goes tell what the pipeline can
do; then loads follow as shares of that, to past it, where latency grows for as long as the load lasts. Each point must
add up exactly, else there are no figures. Prints a table; writes JSON, CSV and the chart, in `--out`.
"""

import argparse
import asyncio
import csv
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from redis.asyncio import Redis

from common.cli import EXIT_DONE, Parser, number, whole
from common.ledger.redis import RedisLedger
from studies.command import measured_into
from studies.latency.chart import draw
from studies.latency.moments import due_s, settled_s
from studies.process import BenchmarkFailed, Launched
from studies.record import machine, versions
from studies.runs import audit, queue_names
from tests.servers import RabbitServer, RedisServer

OUT = Path(__file__).resolve().parents[2] / "docs" / "capacity"
BATCH_SIZES = (1, 100)
SHARES = (0.05, 0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
# Messages of the run that tells what the pipeline can do: some seconds' worth on two cores.
SATURATING = {1: 60_000, 100: 1_500_000}
# A load that nothing can keep up with: all is due at once.
AT_ONCE_PER_S = 1e9
# What is due in the first second does not count: code is cold, and the sender's prefetch still grows.
WARM_UP_S = 1.0
SENDER_CONCURRENCY = 20_000
LOOK_S = 0.1
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Point:
    """One load. Latencies in seconds; `behind_s`: how late the producer published its latest message."""

    batch_size: int
    share: float
    offered_per_s: float
    messages: int
    settled_per_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float
    behind_s: float


def main() -> int:
    """Reads the arguments and measures."""
    parser = Parser("studies.latency", "Measures latency against offered load.")
    parser.add_argument("--seconds", type=number(2, 600), default=8.0, help="of each load (default: 8)")
    parser.add_argument("--rounds", type=whole(1), default=1, help="medians are over these (default: 1)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the results (default: {OUT})")
    args = parser.parse_args()
    results = measured_into(args.out / "latency.json", parser.prog, _measure(args))
    with (args.out / "latency.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, list(results["points"][0]))
        rows.writeheader()
        rows.writerows(results["points"])
    draw(results, args.out)
    print(markdown(results))
    return EXIT_DONE


def markdown(results: dict[str, Any]) -> str:
    """The saturation, and one row a load."""
    saturation = (
        f"{rate:,} messages/s in batches of {size}" for size, rate in results["saturation_per_s"].items()
    )
    rows = [
        f"Saturation: {', '.join(saturation)}.",
        "",
        "| batch | load, messages/s | share of saturation | settled/s | p50 | p95 | p99 | longest | messages |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for point in results["points"]:
        times = (_time(point[name]) for name in ("p50_s", "p95_s", "p99_s", "max_s"))
        rows.append(
            f"| {point['batch_size']} | {point['offered_per_s']:,.0f} | {point['share']:.0%}"
            f" | {point['settled_per_s']:,.0f} | {' | '.join(times)} | {point['messages']:,} |"
        )
    return "\n".join(rows)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    with RabbitServer() as rabbit, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
        saturation: dict[int, float] = {}
        points: list[Point] = []
        for batch_size in BATCH_SIZES:
            bench = _Bench(batch_size, rabbit, redis, Path(folder) / f"batches-{batch_size}")
            saturation[batch_size], measured = await bench.measure(args.seconds, args.rounds)
            points += measured
        return {
            "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine(),
            "versions": versions(rabbit, redis),
            "seconds": args.seconds,
            "warm_up_s": WARM_UP_S,
            "rounds": args.rounds,
            "sender_concurrency": SENDER_CONCURRENCY,
            "saturation_per_s": {str(size): round(rate) for size, rate in saturation.items()},
            "points": [asdict(point) for point in points],
        }


@dataclass(frozen=True)
class _Load:
    run: str
    share: float
    offered_per_s: float
    messages: int
    began: Path


class _Bench:
    """All loads in batches of one size, through one sender."""

    def __init__(self, batch_size: int, rabbit: RabbitServer, redis: RedisServer, folder: Path) -> None:
        self._batch_size = batch_size
        self._rabbit = rabbit
        self._folder = folder
        self._queue = f"latency-{secrets.token_hex(4)}"
        self._ledger = RedisLedger(Redis(host=redis.host, port=redis.port))
        self._behind_s: dict[str, float] = {}
        self._settings = {
            "RABBITMQ_HOST": rabbit.host,
            "RABBITMQ_PORT": str(rabbit.port),
            "REDIS_HOST": redis.host,
            "REDIS_PORT": str(redis.port),
            "QUEUE_NAME": self._queue,
            "BATCH_SIZE": str(batch_size),
            "MEAN_PROCESSING_TIME": "0",
            "SENDER_CONCURRENCY": str(SENDER_CONCURRENCY),
        }

    async def measure(self, seconds: float, rounds: int) -> tuple[float, list[Point]]:
        """What the pipeline can do, in messages/s, and a point for each load."""
        self._folder.mkdir()
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self._ledger.close)
            settled = self._folder / "settled.npz"
            with self._launched("sender", settled, "sender") as sender:
                while not (await self._ledger.snapshot()).senders:
                    await self._look(sender)
                saturation = await self._saturation(sender)
                loads = []
                for turn in range(rounds):
                    for share in SHARES:
                        rate = float(f"{share * saturation:.2g}")
                        loads.append(self._load(f"r{turn}-{share:g}", share, rate, round(rate * seconds)))
                        await self._carry(loads[-1], sender)
                sender.stop()
            self._rabbit.delete_queues(*queue_names(self._queue))
        points = [self._point(load, settled) for load in loads]
        return saturation, [_median(points[turn :: len(SHARES)]) for turn in range(len(SHARES))]

    async def _saturation(self, sender: Launched) -> float:
        """Messages/s from begin to last settle, as fast as it goes; the better of two, for the first is cold."""
        rates = []
        for name in "saturation-1", "saturation-2":
            load = self._load(name, 1, AT_ONCE_PER_S, SATURATING[self._batch_size])
            await self._carry(load, sender)
            now = await self._ledger.snapshot(load.run)
            rates.append(load.messages / ((now.last_settled_us - now.started_us) / 1e6))
        return max(rates)

    def _load(self, name: str, share: float, rate: float, messages: int) -> _Load:
        # No dots in a run's name.
        run = f"{self._queue}-{name.replace('.', '-')}"
        return _Load(run, share, rate, messages, self._folder / f"{run}.began")

    async def _carry(self, load: _Load, sender: Launched) -> None:
        """Publishes a load and waits until it is settled. Raises BenchmarkFailed unless it adds up."""
        arguments = ("--num-messages", str(load.messages), "--rate", repr(load.offered_per_s))
        with self._launched("producer", load.began, load.run, *arguments, "--run", load.run) as producer:
            while not producer.over:
                await self._look(sender)
            report = producer.result()
        self._behind_s[load.run] = float(report["most_behind_s"])
        deadline = time.monotonic() + PATIENCE_S
        while (now := await self._ledger.snapshot(load.run)).settled < load.messages:
            if time.monotonic() > deadline:
                raise BenchmarkFailed(f"{load} is not settled in time: {now}")
            await self._look(sender)
        await audit(self._ledger, self._rabbit, self._queue, load.run, load.messages)
        print(f"batches of {self._batch_size}, {load.offered_per_s:,.0f}/s: {report}", file=sys.stderr)

    def _point(self, load: _Load, settled: Path) -> Point:
        seqs, ended_s = settled_s(settled, load.run)
        if not np.array_equal(seqs, np.arange(load.messages)):
            raise BenchmarkFailed(f"{load}: {seqs.size} settles")
        due = due_s(load.began, load.messages, load.offered_per_s)
        waits = (ended_s - due)[due >= due[0] + WARM_UP_S]
        p50_s, p95_s, p99_s, max_s = (
            round(float(np.percentile(waits, share)), 5) for share in (50, 95, 99, 100)
        )
        return Point(
            batch_size=self._batch_size,
            share=load.share,
            offered_per_s=load.offered_per_s,
            messages=waits.size,
            settled_per_s=round(load.messages / float(ended_s.max() - due[0]), 1),
            p50_s=p50_s,
            p95_s=p95_s,
            p99_s=p99_s,
            max_s=max_s,
            behind_s=self._behind_s[load.run],
        )

    def _launched(self, role: str, file: Path, name: str, *arguments: str) -> Launched:
        command = [sys.executable, "-m", "studies.latency.moments", role, str(file), *arguments]
        return Launched(command, self._settings, self._folder / name)

    async def _look(self, sender: Launched) -> None:
        """A pause. Raises BenchmarkFailed if the sender has ended."""
        if sender.over:
            raise sender.failed("ended before its time")
        await asyncio.sleep(LOOK_S)


def _median(rounds: Sequence[Point]) -> Point:
    """The same load over all rounds: the median of each figure."""
    names = ("settled_per_s", "p50_s", "p95_s", "p99_s", "max_s", "behind_s")
    return replace(rounds[0], **{name: median(getattr(one, name) for one in rounds) for name in names})


if __name__ == "__main__":
    sys.exit(main())
