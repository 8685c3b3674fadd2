"""What memory the pipeline takes, and what a look at it: `make memory`, `python -m studies.capacity.memory`.

On real servers: a sender's memory against the messages it has in flight, a producer's against the messages it
publishes, Redis's bytes a message, and the CPU time of one snapshot against the size of the run. Every run must add up
exactly, else it fails. Prints tables; writes memory.json into `--out`.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.cli import EXIT_DONE, Parser, number
from studies.capacity.memory_ledger import ledger_of_size
from studies.capacity.memory_services import Services
from studies.command import measured_into
from studies.record import machine, versions
from tests.servers import RabbitServer, RedisServer

OUT = Path(__file__).resolve().parents[2] / "docs" / "capacity"
IN_FLIGHT = (1_000, 10_000, 100_000, 400_000)
PUBLISHED = (10_000, 100_000, 1_000_000, 10_000_000)
IN_LEDGER = (10_000, 1_000_000, 10_000_000)

HEADINGS = {
    "sender": ("slots", "batch", "most in flight", "idle MB", "peak MB", "bytes per message in flight"),
    "producer": ("messages", "batch", "peak MB"),
    "ledger": ("messages", "Redis bytes", "per message", "snapshot: our CPU µs", "Redis CPU µs"),
}


def main() -> int:
    """Reads the arguments and measures."""
    parser = Parser("studies.capacity.memory", "Measures the memory of sender, producer and ledger.")
    parser.add_argument("--scale", type=number(0.001, 10), default=1.0, help="multiplies all sizes")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the results (default: {OUT})")
    args = parser.parse_args()
    results = measured_into(args.out / "memory.json", parser.prog, _measure(args))
    print(markdown(results))
    return EXIT_DONE


def markdown(results: dict[str, Any]) -> str:
    """A table for each part."""
    parts = []
    for part, heads in HEADINGS.items():
        rows = [f"| {' | '.join(row.values())} |" for row in map(_cells, results[part])]
        parts.append("\n".join([f"| {' | '.join(heads)} |", f"|{' ---: |' * len(heads)}", *rows]))
    return "\n\n".join(parts)


def _cells(row: dict[str, Any]) -> dict[str, str]:
    return {name: f"{value:,}" for name, value in row.items()}


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    def scaled(sizes: Sequence[int]) -> list[int]:
        return [max(1_000, round(size * args.scale)) for size in sizes]

    with RabbitServer() as rabbit, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
        async with Services(rabbit, redis, Path(folder)) as services:
            producers = [await services.producer(messages) for messages in scaled(PUBLISHED)]
            senders = [await services.sender(slots) for slots in scaled(IN_FLIGHT)]
        ledgers = [await ledger_of_size(redis, messages) for messages in scaled(IN_LEDGER)]
        return {
            "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine(),
            "versions": versions(rabbit, redis),
            "sender": senders,
            "producer": producers,
            "ledger": ledgers,
        }


if __name__ == "__main__":
    sys.exit(main())
