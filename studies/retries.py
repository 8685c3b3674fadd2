"""How well a sender fills its slots where sends take unequal times or are retried: `python -m studies.retries`.

One sender works off a run that is published already, on servers. Prefetch counts deliveries, and a batch holds its
place for its last message, so a sender that asks for too few of them leaves slots idle
(docs/adr/0012-prefetch-counts-messages.md). Prints when each share of the messages was settled, counted from the first
claim. `--code` measures the services of another checkout, for pairs.

With `--virtual` the embedded pipeline runs on a clock that jumps to the next timer: the figures are those of a machine
on which CPU time costs nothing.
"""

import asyncio
import sys
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.cli import EXIT_DONE, Parser, run_command, whole
from common.ledger.memory import MemoryLedger
from common.ledger.values import Snapshot
from common.messages import Lane
from common.publishing.random import RandomSource
from common.settings import load_settings
from simulation.pipeline import Simulation, simulate
from studies import ROOT, runs
from studies.page import Column, table
from studies.process import Process
from studies.servers import Pipeline, Servers
from tests.model.world import VirtualLoop

SHARES = (0.5, 0.95, 0.99, 1.0)
SEED = 7
LOOK_EVERY_S = 0.01


@dataclass(frozen=True)
class Case:
    """A kind of send.

    Attributes:
        name: Its name in the table.
        settings: The settings of the sender.
    """

    name: str
    settings: dict[str, Any]


CASES = (
    Case("normal, 1 s ± 0.1 s", {"mean_processing_time": 1, "failure_rate": 0}),
    Case(
        "exponential, 1 s",
        {"mean_processing_time": 1, "failure_rate": 0, "processing_time_distribution": "exponential"},
    ),
    Case("profile flaky, 5 attempts", {"provider_profile": "flaky", "max_attempts": 5}),
    Case("30 % are retried, 4 attempts", {"mean_processing_time": 1, "failure_rate": 0.3, "max_attempts": 4}),
)


@dataclass
class Progress:
    """How far a run was settled, and when.

    Attributes:
        case: The case.
        messages: The messages of the run.
        samples: Times in seconds, and the messages settled at each.
    """

    case: Case
    messages: int
    samples: list[tuple[float, int]] = field(default_factory=list)

    def note(self, now: Snapshot) -> None:
        """Notes a snapshot of the ledger, from the first claim on."""
        if now.settled or now.sending:
            self.samples.append((now.now_us / 1e6, now.settled))

    def reached_s(self, share: float) -> float:
        """How long it took to settle a share of the messages."""
        began_s, enough = self.samples[0][0], share * self.messages
        return next(at_s - began_s for at_s, settled in self.samples if settled >= enough)


def main() -> int:
    """Reads the arguments and measures."""
    parser = Parser("studies.retries", "Measures how well a sender fills its slots.")
    parser.add_argument("--messages", type=whole(1), default=100_000, help="messages of each run")
    parser.add_argument("--slots", type=whole(1), default=10_000, help="slots of the sender")
    parser.add_argument("--batch-size", type=whole(1), default=157, help="messages in a batch")
    parser.add_argument(
        "--cases", default="", help="first letters of the cases, comma-separated; all unless given"
    )
    parser.add_argument("--code", type=Path, default=ROOT, help="the checkout with the services")
    parser.add_argument("--virtual", action="store_true", help="embedded, in virtual time")
    args = parser.parse_args()
    cases = [case for case in CASES if case.name.startswith(tuple(args.cases.split(",")))]
    if args.virtual:
        print(table(COLUMNS, [_virtual(case, args) for case in cases]))
        return EXIT_DONE

    async def run() -> int:
        async with Servers.started() as servers:
            print(table(COLUMNS, [await _measure(servers, case, args) for case in cases]))
        return EXIT_DONE

    return run_command(parser.prog, run)


def _virtual(case: Case, args: Namespace) -> Progress:
    """One case, embedded."""
    settings = load_settings(seed=SEED, **case.settings)
    source = RandomSource(args.messages, SEED)
    simulation = Simulation("retries", source, args.slots, args.batch_size, Lane.BULK, settings)
    progress, ledger = Progress(case, args.messages), MemoryLedger()

    async def run() -> None:
        clock = asyncio.get_running_loop().time
        running = asyncio.create_task(simulate(simulation, asyncio.Event(), live=False, ledger=ledger))
        while not running.done():
            progress.samples.append((clock(), (await ledger.snapshot()).settled))
            await asyncio.sleep(LOOK_EVERY_S)
        await running
        progress.samples.append((clock(), args.messages))

    loop = VirtualLoop()
    loop.run(run())
    loop.close()
    return progress


async def _measure(servers: Servers, case: Case, args: Namespace) -> Progress:
    """One case, on queues of its own. Raises StudyFailed unless the run adds up."""
    await servers.fresh()
    progress = Progress(case, args.messages)
    pipeline = servers.pipeline("retries", sender_concurrency=args.slots, seed=SEED, **case.settings)
    with _service(pipeline, args, "producer", *_run(pipeline, args)) as producer:
        await producer.ended()
        producer.check()
    with _service(pipeline, args, "sender") as sender:
        await runs.settled(servers.ledger, pipeline.queue, args.messages, sender, look=progress.note)
        sender.end()
    await runs.audit(servers.ledger, pipeline.queue, args.messages, pipeline.waiting())
    return progress


def _run(pipeline: Pipeline, args: Namespace) -> list[object]:
    return ["--num-messages", args.messages, "--batch-size", args.batch_size, "--run", pipeline.queue]


def _service(pipeline: Pipeline, args: Namespace, name: str, *arguments: object) -> Process:
    command = [sys.executable, str(args.code / f"{name}.py"), *map(str, arguments)]
    environment = {**pipeline.environment, "PYTHONPATH": str(args.code)}
    return Process(name, command, env=environment, isolated=True)


def _column(share: float) -> Column[Progress]:
    return Column(f"{share:.0%} after", lambda progress: f"{progress.reached_s(share):.1f} s")


COLUMNS = (
    Column[Progress]("sends", lambda progress: progress.case.name, left=True),
    *(_column(share) for share in SHARES),
)

if __name__ == "__main__":
    sys.exit(main())
