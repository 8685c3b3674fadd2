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
from pathlib import Path
from typing import Any

import msgspec

from common.broker.port import Broker
from common.broker.rabbitmq import connect_broker
from common.cli import (
    LAST_WORDS_S,
    Parser,
    add_connect_timeout,
    number,
    run_command,
    run_id,
    warn_of_near_misses,
    whole,
)
from common.contacts.files import ContactsSource
from common.errors import UsageError
from common.ledger.port import Ledger
from common.logs import configure_logs
from common.messages import MAX_BATCH_MESSAGES, Lane, new_run_id
from common.progress import ProgressBar
from common.publishing.pace import Pace
from common.publishing.publish import Producer
from common.publishing.random_source import RandomSource
from common.publishing.recipes import Source, recipe_of
from common.publishing.sources import source_of
from common.settings import Settings, load_settings
from common.stores import connect_stores

FOLLOW_EVERY_S = 0.2
RATES_PER_S = (0.001, 1e9)


@dataclass(frozen=True)
class Job:
    """One publication: which messages, under which name, from where on."""

    run: str
    source: Source
    batch_size: int
    lane: Lane
    first: int = 0


def main(argv: list[str] | None = None, prog: str = "producer.py") -> int:
    """Reads the arguments, publishes, and prints one JSON line on stdout."""
    args = _parser(prog).parse_args(argv)

    async def run() -> int:
        if args.text is not None and args.contacts is None:
            raise UsageError("--text goes with --contacts")
        if args.strict and args.contacts is None:
            raise UsageError("--strict goes with --contacts")
        if args.resume and (args.run or args.urgent or args.batch_size):
            raise UsageError(
                "--resume takes its batch size and lane from the run: leave --run, --urgent, --batch-size out"
            )
        settings = load_settings(batch_size=args.batch_size)
        configure_logs("producer", settings.log_level, settings.log_file, stream=sys.stderr)
        warn_of_near_misses()
        source = None if args.resume else open_source(args, settings)
        return await _produce(args, settings, source)

    return run_command(prog, run)


def add_source_arguments(
    parser: argparse.ArgumentParser, resume: bool, batch_size: str = "(BATCH_SIZE)"
) -> None:
    """The arguments that say which messages to publish; `batch_size` says what holds without that flag."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--num-messages", type=whole(1), metavar="N", help="publish N random messages")
    which.add_argument(
        "--contacts", type=Path, metavar="FILE.csv", help="publish to the contacts of a CSV file"
    )
    if resume:
        which.add_argument("--resume", metavar="RUN", type=run_id, help="go on with a run that broke off")
    parser.add_argument("--text", metavar="TEMPLATE", help='text for contacts, such as "Hi {name}"')
    parser.add_argument(
        "--strict", action="store_true", help="a bad row in the CSV file stops before publishing"
    )
    parser.add_argument(
        "--batch-size", type=whole(1, MAX_BATCH_MESSAGES), metavar="B", help=f"messages a batch {batch_size}"
    )
    parser.add_argument("--run", metavar="NAME", type=run_id, help="the run's name; generated unless given")
    parser.add_argument(
        "--urgent",
        action="store_true",
        help="before all bulk messages, in every slot that they leave or free",
    )


def open_source(args: argparse.Namespace, settings: Settings) -> Source:
    """The source that the arguments ask for; bad rows of a CSV file are reported on stderr. Raises UsageError."""
    if args.contacts is None:
        return RandomSource(
            args.num_messages, secrets.randbits(63) if settings.seed is None else settings.seed
        )
    source, bad = ContactsSource.open(args.contacts, args.text)
    for row in bad:
        print(f"{args.contacts}: line {row.line}: {row.reason}: skipped", file=sys.stderr)
    if bad and args.strict:
        raise UsageError(f"{args.contacts}: {len(bad)} bad rows and --strict: nothing was published")
    return source


def _parser(prog: str) -> Parser:
    parser = Parser(prog, "Publishes messages to the queue: random ones, or to the contacts of a CSV file.")
    add_source_arguments(parser, resume=True)
    parser.add_argument(
        "--rate",
        type=number(*RATES_PER_S),
        metavar="R",
        help="open arrivals: R messages a second, whatever the queue does; else as fast as it takes them",
    )
    parser.add_argument(
        "--wait", action="store_true", help="follow the run until every message is sent or failed"
    )
    add_connect_timeout(parser)
    return parser


async def _produce(args: argparse.Namespace, settings: Settings, source: Source | None) -> int:
    """Builds the producer on RabbitMQ and Redis, publishes, and reports."""
    async with await connect_stores(settings, args.connect_timeout) as stores:
        ledger = stores.ledger
        producer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        run = args.resume or args.run or new_run_id()
        broker = await connect_broker(settings, "producer", args.connect_timeout)
        try:
            job = await begin(args, settings, source, ledger, producer, run)
            report = await publish(job, broker, ledger, Pace(args.rate) if args.rate else None)
        except BaseException:
            # Whatever went wrong: another producer may go on with the run at once.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await ledger.leave(run, producer)
            raise
        finally:
            await broker.close()
        if args.wait:
            await _follow(job.run, job.source.count, ledger)
        print(json.dumps(report), flush=True)
        return 0


async def begin(
    args: argparse.Namespace,
    settings: Settings,
    source: Source | None,
    ledger: Ledger,
    producer: str,
    run: str,
) -> Job:
    """Opens the run in the ledger, or takes over the one to resume. Raises UsageError."""
    if source is None:
        found = await ledger.resume(run, producer)
        recipe = recipe_of(found.recipe)
        if found.total < recipe.count:
            raise UsageError(f"run {run} was given up after {found.total} messages, so it can't be resumed")
        return Job(run, source_of(recipe), recipe.batch_size, recipe.lane, found.confirmed)
    lane = Lane.URGENT if args.urgent else Lane.BULK
    job = Job(run, source, settings.batch_size, lane)
    recipe = msgspec.structs.replace(source.recipe(settings.batch_size, lane), queue=settings.queue_name)
    recipe_text = msgspec.json.encode(recipe).decode()
    await ledger.begin(run, recipe_text, source.count, producer)
    return job


async def publish(job: Job, broker: Broker, ledger: Ledger, pace: Pace | None = None) -> dict[str, Any]:
    """Publishes a job under a progress bar; gives the closing report, with a pace also how late messages were."""
    began = time.monotonic()
    with ProgressBar(f"publishing {job.run}", job.source.count, job.first) as bar:
        try:
            await Producer(broker, ledger).publish(
                job.run, job.source, job.batch_size, job.lane, job.first, bar.update, pace
            )
        except asyncio.CancelledError:
            print(f"stopped: go on with --resume {job.run}", file=sys.stderr)
            raise
    elapsed_s = time.monotonic() - began
    published = job.source.count - job.first
    report = {
        "run": job.run,
        "published": published,
        "elapsed_s": round(elapsed_s, 3),
        "rate_per_s": round(published / elapsed_s, 1) if elapsed_s else 0.0,
    }
    if pace is not None:
        report["behind_s"] = round(pace.behind_s, 3)
        report["most_behind_s"] = round(pace.most_behind_s, 3)
    return report


async def _follow(run: str, total: int, ledger: Ledger) -> None:
    """Returns when every message of the run is sent or failed."""
    with ProgressBar(f"sending {run}", total) as bar:
        while (snapshot := await ledger.snapshot(run)).settled < max(total, snapshot.published):
            bar.update(snapshot.settled)
            await asyncio.sleep(FOLLOW_EVERY_S)
