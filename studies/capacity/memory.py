"""The memory of the pipeline, and the cost of a snapshot: `make memory`, `python -m studies.capacity.memory`.

On real servers: a sender's memory against its messages in flight, a producer's against the messages it publishes,
Redis's bytes a message, and the CPU time of a snapshot against the size of the run. Every run must add up exactly.
Prints tables; writes memory.json into `--out`.
"""

import argparse
import sys
from collections.abc import Sequence

from studies import DOCS
from studies.capacity.ledger import LedgerFigure, ledger_of_size
from studies.capacity.services import ProducerFigure, SenderFigure, measure_producer, measure_sender
from studies.command import run_study, study_parser
from studies.page import Column, table
from studies.record import Record
from studies.servers import Servers

IN_FLIGHT = (1_000, 10_000, 100_000, 400_000)
PUBLISHED = (10_000, 100_000, 1_000_000, 10_000_000)
IN_LEDGER = (10_000, 1_000_000, 10_000_000)


class MemoryRecord(Record, frozen=True, kw_only=True):
    """The results of `make memory`.

    Attributes:
        sender, producer, ledger: The figures of each part, by size.
    """

    sender: list[SenderFigure]
    producer: list[ProducerFigure]
    ledger: list[LedgerFigure]


def main() -> int:
    """Reads the arguments and measures."""
    parser = study_parser(
        "studies.capacity.memory",
        "Measures the memory of sender, producer and ledger.",
        out=DOCS / "capacity",
        scales="all sizes",
    )
    return run_study(parser, _measure, markdown, file="memory.json")


def markdown(results: MemoryRecord) -> str:
    """A table for each part."""
    return "\n\n".join(
        [
            table(SENDER, results.sender),
            table(PRODUCER, results.producer),
            table(LEDGER, results.ledger),
            results.conditions,
        ]
    )


async def _measure(args: argparse.Namespace) -> MemoryRecord:
    def scaled(sizes: Sequence[int]) -> list[int]:
        return [max(1_000, round(size * args.scale)) for size in sizes]

    async with Servers.started() as servers:
        producers = [await measure_producer(servers, messages) for messages in scaled(PUBLISHED)]
        senders = [await measure_sender(servers, slots) for slots in scaled(IN_FLIGHT)]
        ledgers = [await ledger_of_size(servers.redis, messages) for messages in scaled(IN_LEDGER)]
        return MemoryRecord(**servers.conditions(), sender=senders, producer=producers, ledger=ledgers)


SENDER = (
    Column[SenderFigure]("slots", lambda one: f"{one.slots:,}"),
    Column[SenderFigure]("batch", lambda one: f"{one.batch_size:,}"),
    Column[SenderFigure]("most in flight", lambda one: f"{one.most_in_flight:,}"),
    Column[SenderFigure]("idle MB", lambda one: f"{one.idle_mb:,}"),
    Column[SenderFigure]("peak MB", lambda one: f"{one.peak_mb:,}"),
    Column[SenderFigure]("bytes per message in flight", lambda one: f"{one.bytes_per_message:,}"),
)
PRODUCER = (
    Column[ProducerFigure]("messages", lambda one: f"{one.messages:,}"),
    Column[ProducerFigure]("batch", lambda one: f"{one.batch_size:,}"),
    Column[ProducerFigure]("peak MB", lambda one: f"{one.peak_mb:,}"),
)
LEDGER = (
    Column[LedgerFigure]("messages", lambda one: f"{one.messages:,}"),
    Column[LedgerFigure]("Redis bytes", lambda one: f"{one.redis_bytes:,}"),
    Column[LedgerFigure]("per message", lambda one: f"{one.bytes_per_message:,}"),
    Column[LedgerFigure]("snapshot: our CPU µs", lambda one: f"{one.snapshot_cpu_us:,}"),
    Column[LedgerFigure]("Redis CPU µs", lambda one: f"{one.snapshot_redis_cpu_us:,}"),
)

if __name__ == "__main__":
    sys.exit(main())
