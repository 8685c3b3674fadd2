"""How long messages of either lane wait: `python -m studies.latency.lanes`, described in docs/performance.md.

A bulk backlog is published, a sender begins to work it off, and meanwhile urgent messages are published one at a
time, at random moments. Timed is each message's way from the call of its publish to the start of its send. Every
run must add up exactly, every send must have begun once, and the backlog must outlast the last urgent message;
otherwise there are no figures. Prints a table, writes JSON: medians of the rounds.
"""

import argparse
import asyncio
import json
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import uvloop
from redis.asyncio import Redis

from common.cli import EXIT_DONE, Parser, number, whole
from common.ledger.redis import RedisLedger
from common.ledger.values import Snapshot
from common.messages import Batch, Lane, Message
from common.publishing.publish import Producer
from common.publishing.random_source import RandomSource
from common.settings import Settings
from studies.command import measured_into
from studies.latency.stamps import StampedBroker, Stamps, Times, read
from studies.process import BenchmarkFailed, Launched
from studies.record import machine, versions
from tests.servers import RabbitServer, RedisServer

LATEST = Path(__file__).resolve().parents[1] / "results" / "lanes.json"
BATCH_SIZE = 100
MEAN_S = 0.1
SENDER_CONCURRENCY = 2_000
URGENT_PER_S = 20.0
# What the backlog is expected to take is allowed for this many times, and this long on top.
PATIENCE = 3
PATIENCE_S = 60.0
LOOK_S = 0.1


@dataclass(frozen=True)
class Scenario:
    """`bulk` messages wait when a sender begins; `rate` is PROVIDER_RATE, in messages/s."""

    work: str
    bulk: int
    urgent: int
    rate: float | None = None


@dataclass(frozen=True)
class Waits:
    """How long the messages of a lane waited, in seconds."""

    messages: int
    p50_s: float
    p99_s: float
    longest_s: float

    @classmethod
    def of(cls, published: Times, begun: Times) -> "Waits":
        """From moments in nanoseconds, of the same messages in the same order."""
        waits = (begun - published) / 1e9
        p50_s, p99_s = np.percentile(waits, [50, 99]).tolist()
        return cls(waits.size, p50_s, p99_s, float(waits.max()))

    def as_json(self) -> dict[str, Any]:
        """With four digits after the point: a tenth of a millisecond."""
        seconds = {"p50_s": self.p50_s, "p99_s": self.p99_s, "longest_s": self.longest_s}
        return {"messages": self.messages} | {name: round(value, 4) for name, value in seconds.items()}


def main() -> int:
    """Reads the arguments and measures."""
    parser = Parser("studies.latency.lanes", "Measures how long urgent messages wait beside a bulk backlog.")
    parser.add_argument("--rounds", type=whole(1), default=3, help="medians are over these (default: 3)")
    parser.add_argument(
        "--messages", type=whole(1), default=1_000_000, help="the backlog (default: 1,000,000)"
    )
    parser.add_argument("--seconds", type=number(1), default=30.0, help="of urgent messages (default: 30)")
    parser.add_argument(
        "--rate",
        type=number(1),
        default=15_000.0,
        help="PROVIDER_RATE of the last scenario (default: 15,000)",
    )
    parser.add_argument("--out", type=Path, default=LATEST, help=f"where the JSON goes (default: {LATEST})")
    args = parser.parse_args()
    results = measured_into(args.out, parser.prog, _measure(args), uvloop.run)
    print(markdown(results))
    return EXIT_DONE


def markdown(results: dict[str, Any]) -> str:
    """One row a lane of each scenario."""
    rows = ["| while | lane | messages | p50 | p99 | longest |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for figure in results["figures"]:
        for lane in Lane.URGENT, Lane.BULK:
            if lane in figure:
                waits = figure[lane]
                times = (_time(waits[name]) for name in ("p50_s", "p99_s", "longest_s"))
                rows.append(f"| {figure['work']} | {lane} | {waits['messages']:,} | {' | '.join(times)} |")
    return "\n".join(rows)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    urgent, backlog = round(args.seconds * URGENT_PER_S), f"a backlog of {args.messages:,} is worked off"
    scenarios = (
        Scenario("there is nothing else", 0, urgent),
        Scenario(backlog, args.messages, urgent),
        Scenario(f"the same at PROVIDER_RATE={args.rate:g}", args.messages, urgent, args.rate),
    )
    with RabbitServer() as rabbit, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
        rounds: list[list[dict[str, Any]]] = []
        for _ in range(args.rounds):
            rounds.append([])
            for scenario in scenarios:
                redis.flush()
                rounds[-1].append(await _Measurement(scenario, rabbit, redis, Path(folder)).take())
                print(json.dumps(rounds[-1][-1]), file=sys.stderr, flush=True)
        return {
            "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine(),
            "versions": versions(rabbit, redis),
            "batch_size": BATCH_SIZE,
            "mean_processing_time_s": MEAN_S,
            "sender_concurrency": SENDER_CONCURRENCY,
            "urgent_per_s": URGENT_PER_S,
            "rounds": args.rounds,
            "figures": [_median(same) for same in zip(*rounds, strict=True)],
        }


def _median(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The same figure over all rounds: the median of each time."""
    figure = dict(rounds[0])
    for lane in figure.keys() & set(Lane):
        times = {name: [one[lane][name] for one in rounds] for name in figure[lane] if name != "messages"}
        figure[lane] = figure[lane] | {name: round(median(values), 4) for name, values in times.items()}
    return figure


class _Measurement:
    """One scenario, on queues of its own."""

    def __init__(self, scenario: Scenario, rabbit: RabbitServer, redis: RedisServer, folder: Path) -> None:
        self._scenario = scenario
        name = f"lanes-{secrets.token_hex(4)}"
        self._runs = {Lane.BULK: f"{name}-bulk", Lane.URGENT: f"{name}-urgent"}
        self._sizes = {Lane.BULK: scenario.bulk, Lane.URGENT: scenario.urgent}
        self._folder = folder / name
        self._file = folder / f"{name}.npz"
        self._stamps = Stamps()
        address = {
            "rabbitmq_host": rabbit.host,
            "rabbitmq_port": rabbit.port,
            "redis_host": redis.host,
            "redis_port": redis.port,
            "queue_name": name,
        }
        # Without the user's own settings in .env.
        self._settings = Settings(_env_file=None, **address)  # type: ignore[arg-type]
        self._ledger = RedisLedger(Redis(host=redis.host, port=redis.port))
        self._broker = StampedBroker(self._settings, self._stamps)
        self._environment = {name.upper(): str(value) for name, value in address.items()} | {
            "SENDER_CONCURRENCY": str(SENDER_CONCURRENCY),
            "MEAN_PROCESSING_TIME": str(MEAN_S),
        }
        if scenario.rate is not None:
            self._environment["PROVIDER_RATE"] = str(scenario.rate)

    async def take(self) -> dict[str, Any]:
        """Measures. Raises BenchmarkFailed unless everything adds up."""
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self._ledger.close)
            closing.push_async_callback(self._broker.close)
            await self._broker.start()
            await self._publish_backlog()
            with self._launched() as sender:
                await self._sending(sender)
                await self._publish_urgent(sender)
                await self._settled(sender)
                sender.stop()
            await self._audit()
            return self._figure()

    async def _publish_backlog(self) -> None:
        run, count = self._runs[Lane.BULK], self._scenario.bulk
        await self._ledger.begin(run, "", count, "benchmark")
        await Producer(self._broker, self._ledger).publish(
            run, RandomSource(count, seed=1), BATCH_SIZE, Lane.BULK
        )

    def _launched(self) -> Launched:
        command = [sys.executable, "-m", "studies.latency.stamps", str(self._file)]
        return Launched(command, self._environment, self._folder)

    async def _sending(self, sender: Launched) -> None:
        """Returns when the sender is there and, if there is a backlog, at work."""
        while not (await self._ledger.snapshot()).senders or (
            self._scenario.bulk and (await self._snapshot(Lane.BULK)).settled == 0
        ):
            await self._look(sender)

    async def _publish_urgent(self, sender: Launched) -> None:
        """One message a batch, each when its time has come, whatever became of the one before."""
        run, count = self._runs[Lane.URGENT], self._scenario.urgent
        await self._ledger.begin(run, "", count, "benchmark")
        await self._ledger.announce(run, 0, count)
        gaps, confirms, due = random.Random(1), [], time.monotonic()
        for message in RandomSource(count, seed=2).messages(0):
            due += gaps.expovariate(URGENT_PER_S)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            confirms.append(self._publish_one(run, message))
        await asyncio.gather(*confirms)
        await self._ledger.confirm(run, count)
        while (await self._snapshot(Lane.URGENT)).settled < count:
            await self._look(sender)
        if self._scenario.bulk and (await self._snapshot(Lane.BULK)).queued == 0:
            raise BenchmarkFailed("the backlog was gone before the urgent messages: take more --messages")

    def _publish_one(self, run: str, message: Message) -> "asyncio.Future[None]":
        return self._broker.publish(Batch(run=run, messages=[message]), Lane.URGENT)

    async def _settled(self, sender: Launched) -> None:
        rate = min(self._scenario.rate or float("inf"), SENDER_CONCURRENCY / MEAN_S)
        deadline = time.monotonic() + PATIENCE * self._scenario.bulk / rate + PATIENCE_S
        while (now := await self._snapshot(Lane.BULK)).settled < self._scenario.bulk:
            if time.monotonic() > deadline:
                raise BenchmarkFailed(f"the backlog is not settled in time: {now}")
            await self._look(sender)

    async def _look(self, sender: Launched) -> None:
        """A pause. Raises BenchmarkFailed if the sender has ended."""
        if sender.over:
            raise sender.failed("ended before its time")
        await asyncio.sleep(LOOK_S)

    async def _snapshot(self, lane: Lane) -> Snapshot:
        return await self._ledger.snapshot(self._runs[lane])

    async def _audit(self) -> None:
        """Raises BenchmarkFailed unless each message is sent or failed, once, and no queue holds anything."""
        for lane, run in self._runs.items():
            now, counted = await self._snapshot(lane), await self._ledger.recount(run)
            exact = now.published == now.settled == self._sizes[lane] and now.sending == now.queued == 0
            proven = (counted["sent"], counted["failed"], counted["sending"]) == (now.sent, now.failed, 0)
            if not (exact and proven and now.ambiguous == 0):
                raise BenchmarkFailed(f"run {run} does not add up: {now}, recount {counted}")
        depths = await self._broker.depths()
        if any(depths.values()):
            raise BenchmarkFailed(f"bodies are left in the queues: {depths}")

    def _figure(self) -> dict[str, Any]:
        figure: dict[str, Any] = {"work": self._scenario.work, "provider_rate": self._scenario.rate}
        for lane, size in self._sizes.items():
            if size:
                figure[lane] = self._waits(lane).as_json()
        return figure

    def _waits(self, lane: Lane) -> Waits:
        published_seqs, published = self._stamps.of(self._runs[lane])
        begun_seqs, begun = read(self._file, self._runs[lane])
        every = np.arange(self._sizes[lane])
        if not (np.array_equal(published_seqs, every) and np.array_equal(begun_seqs, every)):
            raise BenchmarkFailed(
                f"{self._sizes[lane]} messages, {published.size} publishes, {begun.size} sends begun"
            )
        return Waits.of(published, begun)


if __name__ == "__main__":
    sys.exit(main())
