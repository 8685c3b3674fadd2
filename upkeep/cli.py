"""`smsim replay`, `smsim audit`, `smsim cancel` and `smsim forget`: commands for operators."""

import argparse
import json
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from common.audit import open_command_audit
from common.broker.port import Broker, ParkedQueue
from common.broker.rabbitmq import RabbitBroker, connect_broker
from common.broker.topology import Topology
from common.cancel import Canceled, Cancellation
from common.cli import (
    BRIEF_CONNECT_TIMEOUT_S,
    EXIT_DONE,
    EXIT_FAILED,
    Parser,
    add_connect_timeout,
    printable,
    run_command,
    run_id,
    say,
    warn_of_near_misses,
    whole,
)
from common.errors import UsageError
from common.ledger.port import Ledger
from common.logs import configure_logs
from common.progress import ProgressBar
from common.settings import Settings, load_settings
from common.stores import connect_stores
from upkeep.audit import audit
from upkeep.findings import report
from upkeep.parked import Found, Selection
from upkeep.replay import Replay


def replay_main(argv: list[str] | None = None, prog: str = "smsim replay") -> int:
    """Publishes what failed, or was rejected, as new runs; prints a JSON line for each on stdout."""
    args = _replay_parser(prog).parse_args(argv)
    return run_command(prog, lambda: _replay(args))


async def _replay(args: argparse.Namespace) -> int:
    settings = _prepare()
    record = open_command_audit(settings)
    parked = ParkedQueue.REJECTED if args.rejected else ParkedQueue.FAILED
    queue = Topology(settings.queue_name, settings.queue_type).parked(parked).name
    selection = Selection(parked, args.run, args.limit)
    producer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"

    def replay(broker: Broker, ledger: Ledger) -> Replay:
        return Replay(broker, ledger, selection, queue=settings.queue_name, producer=producer)

    async with _servers(settings, args.connect_timeout) as (broker, ledger):
        found = await replay(broker, ledger).look((await broker.depths())[queue])
    _print_what_stays(found, queue)
    if args.dry_run:
        for of, messages in found.wanted.items():
            _print({"dry_run": True, "of": of, "messages": messages})
        return EXIT_DONE
    if found.depth == 0:
        return EXIT_DONE
    # Over new connections: to close the first ones gives the bodies back.
    async with _servers(settings, args.connect_timeout) as (broker, ledger):
        with ProgressBar("replaying", found.messages) as bar:
            replayed = await replay(broker, ledger).carry_out(found, bar.update)
    for new in replayed:
        record("run_replayed", of=new.of, run=new.run, messages=new.messages)
        _print({"run": new.run, "of": new.of, "published": new.messages})
    return EXIT_DONE


def _replay_parser(prog: str) -> Parser:
    parser = Parser(
        prog, "Publishes messages that failed, or were rejected, as a new run that names the old one."
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--failed", action="store_true", help="what KEEP_FAILED kept in <queue>.failed (the default)"
    )
    which.add_argument(
        "--rejected", action="store_true", help="what in <queue>.rejected can be decoded after all"
    )
    parser.add_argument("--run", type=run_id, metavar="RUN", help="only the messages of this run")
    parser.add_argument("--limit", type=whole(1), metavar="N", help="no more messages than this")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    add_connect_timeout(parser, BRIEF_CONNECT_TIMEOUT_S)
    return parser


def audit_main(argv: list[str] | None = None, prog: str = "smsim audit") -> int:
    """Recounts the ledger and compares it with the queues; exit code 1 if something is wrong."""
    parser = Parser(
        prog, "Recounts every message's state; with senders stopped, compares the record with the queues."
    )
    parser.add_argument("--run", type=run_id, metavar="RUN", help="only this run")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="settle as failed what is in no queue; with --run also what a producer could still publish",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    add_connect_timeout(parser, BRIEF_CONNECT_TIMEOUT_S)
    args = parser.parse_args(argv)

    async def run() -> int:
        settings = _prepare()
        record = open_command_audit(settings)
        # Missing queues are not declared: with a wrong address, the new queues would look like empty ones.
        async with _servers(settings, args.connect_timeout, declares=False) as (broker, ledger):
            result = await audit(broker, ledger, settings.queue_name, args.run, args.repair)
        if args.repair:
            record("runs_repaired", run=args.run)
        if args.json:
            _print(result.as_json())
        else:
            print("\n".join(map(printable, report(result))), flush=True)
        return EXIT_DONE if result.right else EXIT_FAILED

    return run_command(prog, run)


def forget_main(argv: list[str] | None = None, prog: str = "smsim forget") -> int:
    """Removes settled runs from the ledger; the totals of all runs stay."""
    parser = Parser(prog, "Removes runs that are over from the ledger. The totals of all runs stay.")
    parser.add_argument("runs", nargs="+", type=run_id, metavar="RUN")
    add_connect_timeout(parser, BRIEF_CONNECT_TIMEOUT_S)
    args = parser.parse_args(argv)

    async def run() -> int:
        settings = _prepare()
        record = open_command_audit(settings)
        async with await connect_stores(settings, args.connect_timeout) as stores:
            for name in args.runs:
                await stores.ledger.forget(name)
                record("run_forgotten", run=name)
                _print({"forgotten": name})
        return EXIT_DONE

    return run_command(prog, run)


def cancel_main(argv: list[str] | None = None, prog: str = "smsim cancel") -> int:
    """Cancels what is queued of runs; a line for each on stdout."""
    parser = Parser(
        prog,
        "Cancels the messages of runs that are still queued, and closes the runs. What is sending goes on.",
    )
    parser.add_argument("runs", nargs="+", type=run_id, metavar="RUN")
    parser.add_argument("--json", action="store_true", help="a JSON object for each run on stdout")
    add_connect_timeout(parser, BRIEF_CONNECT_TIMEOUT_S)
    args = parser.parse_args(argv)

    async def run() -> int:
        settings = _prepare()
        record = open_command_audit(settings)
        async with await connect_stores(settings, args.connect_timeout) as stores:
            cancellation = Cancellation(stores.ledger, stores.tracker)
            for name in args.runs:
                canceled = await cancellation.cancel_run(name)
                record("run_canceled", run=name, canceled=canceled.canceled)
                if args.json:
                    _print({"run": name, **msgspec.structs.asdict(canceled)})
                else:
                    print(f"{name}: {_of_cancel(canceled)}", flush=True)
        return EXIT_DONE

    return run_command(prog, run)


def _of_cancel(it: Canceled) -> str:
    return (
        f"{it.canceled:,} canceled; {it.sending:,} are being sent, {it.sent:,} were sent,"
        f" {it.failed:,} had failed"
    )


def _prepare() -> Settings:
    settings = load_settings()
    configure_logs("upkeep", settings.log_level, settings.log_file, stream=sys.stderr)
    warn_of_near_misses()
    return settings


@asynccontextmanager
async def _servers(
    settings: Settings, connect_timeout_s: float, declares: bool = True
) -> AsyncIterator[tuple[RabbitBroker, Ledger]]:
    async with await connect_stores(settings, connect_timeout_s) as stores:
        broker = await connect_broker(settings, "upkeep", connect_timeout_s, declares)
        try:
            yield broker, stores.ledger
        finally:
            await broker.close()


def _print(value: object) -> None:
    print(json.dumps(value), flush=True)


def _print_what_stays(found: Found, queue: str) -> None:
    """Prints on stderr what is not replayed, and why. Raises UsageError if the limit is too low for any body."""
    if found.first_over_limit and not found.messages:
        raise UsageError(
            f"--limit is less than the {found.first_over_limit} messages of the first body in {queue}, "
            f"which is replayed whole: --limit {found.first_over_limit} or more"
        )
    reasons = {
        "were sent after all": found.sent,
        "were canceled": found.canceled,
        "are replayed already, or are in the queue twice": found.repeated,
        "are not settled yet and stay": found.still_open,
        "are over --limit and stay": found.over_limit,
        "are of other runs and stay": found.of_other_runs,
    }
    for why, messages in reasons.items():
        if messages:
            say(f"{queue}: {messages:,} messages {why}")
    for why, bodies in found.unusable.items():
        say(f"{queue}: {bodies:,} bodies can't be replayed and stay: {why}")
