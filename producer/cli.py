"""`python producer.py`, `smsim produce`: publishes one run."""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from common.broker.port import Broker
from common.broker.rabbitmq import connect_broker
from common.cli import (
    LAST_WORDS_S,
    Parser,
    add_connect_timeout,
    in_background,
    number,
    run_command,
    say,
    warn_of_near_misses,
)
from common.errors import UsageError
from common.ledger.port import Publications, Reports
from common.logs import configure_logs
from common.messages import Lane, new_run_id
from common.progress import ProgressBar
from common.publishing.pace import Pace
from common.publishing.recipes import Recipe, Source, recipe_of, recipe_text
from common.publishing.run import Job, RunPublisher
from common.publishing.sources import source_of
from common.settings import Settings, load_settings
from common.stores import connect_stores, warn_of_another_queue
from producer.arguments import add_source_arguments, check_source_arguments, dropped, open_source
from producer.dry_run import dry_run

RATES_PER_S = (0.001, 1e9)


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of the command, in seconds.

    Attributes:
        follow_every_s: Interval at which `--wait` reads the counters.
        leave_s: How long a producer that ends early tries to give up its run.
    """

    follow_every_s: float = 0.2
    leave_s: float = LAST_WORDS_S


TIMING = Timing()


def main(argv: list[str] | None = None, prog: str = "producer.py") -> int:
    """Reads the arguments, publishes, and prints one JSON line on stdout."""
    args = _parser(prog).parse_args(argv)

    async def run() -> int:
        _check(args)
        settings = load_settings(batch_size=args.batch_size)
        configure_logs("producer", settings.log_level, settings.log_file, stream=sys.stderr)
        warn_of_near_misses()
        source = None if args.resume else await in_background(lambda: open_source(args, settings))
        if source is not None and args.dry_run:
            print(json.dumps(await in_background(lambda: dry_run(source))), flush=True)
            return 0
        return await _produce(args, settings, source)

    return run_command(prog, run)


def _check(args: argparse.Namespace) -> None:
    """Raises UsageError for arguments that exclude one another."""
    check_source_arguments(args)
    if args.resume and (args.run or args.urgent):
        raise UsageError("--resume takes its name and lane from the run: leave --run and --urgent out")
    if args.resume and args.dry_run:
        raise UsageError("--dry-run does not go with --resume: it tells what a new run would publish")


def _parser(prog: str) -> Parser:
    parser = Parser(prog, "Publishes messages to the queue: random ones, or to the contacts of a CSV file.")
    add_source_arguments(parser, resume=True)
    parser.add_argument(
        "--rate",
        type=number(*RATES_PER_S),
        metavar="R",
        help="publish R messages a second, however full the queue is; unless given, as fast as possible,"
        " and with --resume at the rate of the run",
    )
    parser.add_argument(
        "--wait", action="store_true", help="follow the run until every message is sent or failed"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="publish nothing and need no server: print what would be sent, in segments, as JSON",
    )
    add_connect_timeout(parser)
    return parser


async def _produce(args: argparse.Namespace, settings: Settings, source: Source | None) -> int:
    """Builds the producer on RabbitMQ and Redis, publishes, and reports."""
    async with await connect_stores(settings, args.connect_timeout) as stores:
        broker = await connect_broker(settings, "producer", args.connect_timeout)
        await warn_of_another_queue(stores.client, settings)
        producer = Producer(broker, stores.ledger, settings.queue_name)
        run = args.resume or args.run or new_run_id()
        try:
            if source is None:
                job = await producer.resume(run, args.batch_size, args.rate)
            else:
                lane = Lane.URGENT if args.urgent else Lane.BULK
                job = await producer.begin(
                    Job(
                        run=run,
                        source=source,
                        batch_size=settings.batch_size,
                        lane=lane,
                        rate_per_s=args.rate,
                    ),
                    source.recipe(settings.batch_size, lane),
                )
            report = await producer.publish(job, Pace(job.rate_per_s) if job.rate_per_s else None)
        except BaseException:
            await producer.leave(run)
            raise
        finally:
            await broker.close()
        if args.wait:
            await _follow(job, stores.ledger)
        print(json.dumps(report | dropped(job.source)), flush=True)
        return 0


class Producer:
    """Begins or resumes a run, and publishes it.

    `queue` is the name of the queue whose senders are to send the run.
    """

    def __init__(self, broker: Broker, ledger: Publications, queue: str, timing: Timing = TIMING) -> None:
        self._broker = broker
        self._ledger = ledger
        self._queue = queue
        self._timing = timing
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"

    async def begin(self, job: Job, recipe: Recipe) -> Job:
        """Opens the run in the ledger. Raises RunExists."""
        text = recipe_text(msgspec.structs.replace(recipe, queue=self._queue, rate_per_s=job.rate_per_s))
        await self._ledger.begin(job.run, text, job.source.count, self._name)
        return job

    async def resume(self, run: str, batch_size: int | None = None, rate_per_s: float | None = None) -> Job:
        """Takes over a run; the job is what is left of it, in its batch size and at its rate unless others are given.

        Raises UnknownRun, RunBusy, UsageError.
        """
        found = await self._ledger.resume(run, self._name)
        recipe = recipe_of(found.recipe)
        if found.total < recipe.count:
            raise UsageError(f"run {run} was given up after {found.total} messages, so it can't be resumed")
        return Job(
            run=run,
            source=await in_background(lambda: source_of(recipe)),
            batch_size=batch_size or recipe.batch_size,
            lane=recipe.lane,
            first=found.confirmed,
            simulated=recipe.simulated,
            rate_per_s=rate_per_s or recipe.rate_per_s,
        )

    async def leave(self, run: str) -> None:
        """Gives up a run that is not wholly published, so that another producer can resume it at once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timing.leave_s):
                await self._ledger.leave(run, self._name)

    async def publish(self, job: Job, pace: Pace | None = None) -> dict[str, Any]:
        """Publishes a job under a progress bar; answers the report that is printed at the end."""
        began_s = time.monotonic()
        with ProgressBar(f"publishing {job.run}", job.source.count, job.first) as bar:
            try:
                await RunPublisher(
                    self._broker, self._ledger, job, pace=pace, on_progress=bar.update
                ).publish()
            except asyncio.CancelledError:
                say(f"stopped: continue with --resume {job.run}")
                raise
        report = _report(job, elapsed_s=time.monotonic() - began_s)
        if pace is not None:
            report["behind_s"] = round(pace.behind_s, 3)
            report["most_behind_s"] = round(pace.most_behind_s, 3)
        return report


def _report(job: Job, elapsed_s: float) -> dict[str, Any]:
    published = job.source.count - job.first
    return {
        "run": job.run,
        "published": published,
        "elapsed_s": round(elapsed_s, 3),
        "rate_per_s": round(published / elapsed_s, 1) if elapsed_s else 0.0,
    }


async def _follow(job: Job, ledger: Reports, timing: Timing = TIMING) -> None:
    """Returns when every message of the run is sent or failed."""
    total = job.source.count
    with ProgressBar(f"sending {job.run}", total) as bar:
        while (snapshot := await ledger.snapshot(job.run)).settled < max(total, snapshot.published):
            bar.update(snapshot.settled)
            await asyncio.sleep(timing.follow_every_s)
