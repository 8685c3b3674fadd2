"""How long messages of either lane wait: `python -m studies.latency.lanes`.

A bulk backlog is published and a sender works it off. Meanwhile urgent messages are published one at a time. A message
waits from the moment it is due, which for the backlog is the begin of its publication, to the start of its send. Each
run must add up exactly, and each send begin once. Prints a table.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.cli import EXIT_DONE, Parser, number, run_command, whole
from studies.latency.bench import Bench, Publication
from studies.latency.noting import BEGUN, Seconds
from studies.page import Column, duration, table
from studies.process import StudyFailed, until
from studies.servers import Servers

SLOTS, MEAN_S = 2_000, 0.1
# No divisor of the settle interval, so that urgent messages meet all its phases.
URGENT_PER_S = 19.0


@dataclass(frozen=True)
class Waits:
    """How long the messages of a lane waited.

    Attributes:
        work: The other work at the time.
        lane: The lane.
        seconds: The wait of each message.
    """

    work: str
    lane: str
    seconds: Seconds

    def percentile(self, share: float) -> str:
        """A percentile, for people."""
        return duration(float(np.percentile(self.seconds, share)))


def main() -> int:
    """Reads the arguments and measures."""
    parser = Parser("studies.latency.lanes", "Measures how long urgent messages wait beside a bulk backlog.")
    parser.add_argument("--messages", type=whole(1), default=1_000_000, help="the backlog")
    parser.add_argument("--seconds", type=number(1), default=30.0, help="duration of the urgent messages")
    parser.add_argument("--rate", type=number(1), default=15_000.0, help="PROVIDER_RATE of the last scenario")
    args = parser.parse_args()

    async def run() -> int:
        print(table(COLUMNS, await _measure(args)))
        return EXIT_DONE

    return run_command(parser.prog, run)


async def _measure(args: argparse.Namespace) -> list[Waits]:
    urgent = Publication("urgent", round(args.seconds * URGENT_PER_S), URGENT_PER_S, urgent=True)
    bulk = Publication("bulk", args.messages, batch_size=100)
    backlog = f"a backlog of {bulk.messages:,} is worked off"
    limited = f"the same at PROVIDER_RATE={args.rate:g}"
    async with Servers.started() as servers:
        return [
            *await _scenario(servers, "there is nothing else", urgent, None),
            *await _scenario(servers, backlog, urgent, bulk),
            *await _scenario(servers, limited, urgent, bulk, provider_rate=args.rate),
        ]


async def _scenario(
    servers: Servers, work: str, urgent: Publication, bulk: Publication | None, **settings: object
) -> list[Waits]:
    """One scenario, on queues of its own. Raises StudyFailed unless everything adds up."""
    settings |= {"sender_concurrency": SLOTS, "mean_processing_time": MEAN_S}
    await servers.fresh()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(servers, Path(folder), role=BEGUN, **settings)
        await _carry(bench, urgent, bulk)
        lanes = {"urgent": urgent} | ({"bulk": bulk} if bulk else {})
        return [
            Waits(work, lane, bench.noted_s(messages) - bench.due_s(messages))
            for lane, messages in lanes.items()
        ]


async def _carry(bench: Bench, urgent: Publication, bulk: Publication | None) -> None:
    """Publishes the backlog, and the urgent messages while it is worked off."""
    if bulk:
        await bench.publish(bulk)
    with bench.sender() as sender:
        await bench.pipeline.ready(sender)
        if bulk:
            await until(lambda: _moves(bench, bulk), sender, what="the backlog is worked off")
        await bench.publish(urgent, sender)
        await bench.settled(urgent, sender)
        if bulk:
            await _check_outlasted(bench, bulk)
            await bench.settled(bulk, sender)


async def _moves(bench: Bench, bulk: Publication) -> bool:
    return (await bench.ledger.snapshot(bench.run_of(bulk))).settled > 0


async def _check_outlasted(bench: Bench, bulk: Publication) -> None:
    if not (await bench.ledger.snapshot(bench.run_of(bulk))).queued:
        raise StudyFailed("the backlog ended before the urgent messages: use more --messages")


COLUMNS = (
    Column[Waits]("while", lambda waits: waits.work, left=True),
    Column[Waits]("lane", lambda waits: waits.lane, left=True),
    Column[Waits]("messages", lambda waits: f"{waits.seconds.size:,}"),
    Column[Waits]("p50", lambda waits: waits.percentile(50)),
    Column[Waits]("p99", lambda waits: waits.percentile(99)),
    Column[Waits]("longest", lambda waits: waits.percentile(100)),
)

if __name__ == "__main__":
    sys.exit(main())
