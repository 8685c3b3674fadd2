"""`make bench`, `python -m benchmarks.run`: measures on real servers and embedded; prints a table, writes JSON."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from benchmarks.embedded import simulate
from benchmarks.figures import Measured, figure
from benchmarks.machine import machine, versions
from benchmarks.pipeline import SENDER_CONCURRENCY, Pipeline
from benchmarks.processes import BenchmarkFailed
from benchmarks.table import markdown
from common.cli import EXIT_DONE, EXIT_FAILED, Parser, number, whole
from common.ledger.redis import RedisLedger
from tests.servers import RabbitServer, RedisServer

LATEST = Path(__file__).parent / "results" / "latest.json"
# Messages by batch size, so that each measurement takes some seconds on two cores.
MESSAGES = {1: 60_000, 100: 1_000_000, 512: 1_500_000}
EMBEDDED_MESSAGES = 2_000_000
# No further round is begun that could end later than this.
BUDGET_S = 230.0

Scenario = Callable[[], Awaitable[list[Measured]]]


def main() -> int:
    """Reads the arguments and measures."""
    parser = Parser("benchmarks.run", "Measures the pipeline on real servers and embedded.")
    parser.add_argument("--rounds", type=whole(1), default=3, help="medians are over these (default: 3)")
    parser.add_argument("--scale", type=number(0.001, 100), default=1.0, help="multiplies the message counts")
    parser.add_argument("--out", type=Path, default=LATEST, help=f"where the JSON goes (default: {LATEST})")
    args = parser.parse_args()
    try:
        results = asyncio.run(_measure(args))
    except BenchmarkFailed as error:
        print(f"benchmarks.run: {error}", file=sys.stderr)
        return EXIT_FAILED
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=2) + "\n")
    print(markdown(results))
    return EXIT_DONE


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()
    with RabbitServer() as rabbit, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
        ledger = RedisLedger(Redis(host=redis.host, port=redis.port))
        pipeline = Pipeline(rabbit, redis, ledger, Path(folder))
        rounds: list[list[Measured]] = []
        try:
            while len(rounds) < args.rounds and _time_for_another(began, len(rounds)):
                scenarios = _scenarios(pipeline, args.scale, Path(folder) / f"round-{len(rounds)}")
                rounds.append(await _round(scenarios, f"round {len(rounds) + 1} of {args.rounds}"))
        finally:
            await ledger.close()
        return {
            "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine(),
            "versions": versions(rabbit, redis),
            "rounds": len(rounds),
            "scale": args.scale,
            "sender_concurrency": SENDER_CONCURRENCY,
            "figures": [figure(same) for same in zip(*rounds, strict=True)],
        }


def _time_for_another(began: float, done: int) -> bool:
    elapsed_s = time.monotonic() - began
    if done and elapsed_s * (done + 1) / done > BUDGET_S:
        print(f"no time for a further round after {elapsed_s:.0f} s", file=sys.stderr)
        return False
    return True


def _scenarios(pipeline: Pipeline, scale: float, folder: Path) -> list[Scenario]:
    def scaled(messages: int) -> int:
        return max(1_000, round(messages * scale))

    made: list[Scenario] = []
    for batch_size, messages in MESSAGES.items():
        made.append(partial(pipeline.publish_then_consume, batch_size, scaled(messages)))
        made.append(partial(pipeline.both_at_once, batch_size, scaled(messages)))
    embedded = ("embedded, no send time", scaled(EMBEDDED_MESSAGES), 50_000, 0.0)
    made.append(partial(simulate, *embedded, folder / "no-send-time"))
    embedded = ("embedded, 50,000 senders at 1 s", scaled(500_000), 50_000, 1.0)
    made.append(partial(simulate, *embedded, folder / "one-second"))
    return made


async def _round(scenarios: list[Scenario], title: str) -> list[Measured]:
    """Each scenario once: rounds are interleaved, so that a slow minute of the machine hits all alike."""
    measured: list[Measured] = []
    for scenario in scenarios:
        for one in await scenario():
            batch = f", batches of {one.batch_size}" if one.batch_size else ""
            print(
                f"{title}: {one.work}{batch}: {one.rate_per_s:,.0f} messages/s", file=sys.stderr, flush=True
            )
            measured.append(one)
    return measured


if __name__ == "__main__":
    sys.exit(main())
