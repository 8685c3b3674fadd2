"""`smsim replay`, `smsim audit`, `smsim forget`: what an operator does about runs, on RabbitMQ and Redis."""

import json
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.broker.port import Broker, ParkedQueue
from common.broker.rabbitmq import RabbitBroker, connect_broker
from common.broker.topology import Topology
from common.cli import (
    BRIEF_CONNECT_TIMEOUT_S,
    EXIT_DONE,
    EXIT_FAILED,
    Parser,
    add_connect_timeout,
    run_command,
    run_id,
    warn_of_near_misses,
    whole,
)
from common.errors import UsageError
from common.ledger.port import Ledger
from common.logs import configure_logs
from common.progress import ProgressBar
from common.settings import Settings, load_settings
from common.stores import connect_stores
from upkeep.audit import Audit, RunAudit, audit
from upkeep.replay import Found, Replay


def replay_main(argv: list[str] | None = None, prog: str = "smsim replay") -> int:
    """Publishes what failed, or was rejected, as new runs; a JSON line on stdout for each."""
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
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    add_connect_timeout(parser, BRIEF_CONNECT_TIMEOUT_S)
    args = parser.parse_args(argv)

    async def run() -> int:
        settings = _prepare()
        shelf = ParkedQueue.REJECTED if args.rejected else ParkedQueue.FAILED
        queue = Topology(settings.queue_name, settings.queue_type).parked(shelf).name
        producer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"

        def replay(broker: Broker, ledger: Ledger) -> Replay:
            return Replay(broker, ledger, shelf, settings.queue_name, producer, args.run, args.limit)

        async with _servers(settings, args.connect_timeout) as (broker, ledger):
            found = await replay(broker, ledger).look((await broker.depths())[queue])
        _say_what_stays(found, queue)
        if args.dry_run:
            for of, messages in found.wanted.items():
                _print({"dry_run": True, "of": of, "messages": messages})
            return EXIT_DONE
        if found.depth == 0:
            return EXIT_DONE
        # Over connections of their own, since what was looked at goes back to the shelf by closing them.
        async with _servers(settings, args.connect_timeout) as (broker, ledger):
            with ProgressBar("replaying", found.messages) as bar:
                replayed = await replay(broker, ledger).carry_out(found, bar.update)
        for new in replayed:
            _print({"run": new.run, "of": new.of, "published": new.messages})
        return EXIT_DONE

    return run_command(prog, run)


def audit_main(argv: list[str] | None = None, prog: str = "smsim audit") -> int:
    """Recounts the ledger and compares it with the queues; exit code 1 where something is wrong."""
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
        # Queues that are missing are not made here: a wrong address must not pass for empty queues.
        async with _servers(settings, args.connect_timeout, declares=False) as (broker, ledger):
            result = await audit(broker, ledger, settings.queue_name, args.run, args.repair)
        if args.json:
            _print(result.as_json())
        else:
            print("\n".join(_report(result)), flush=True)
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
        async with await connect_stores(settings, args.connect_timeout) as stores:
            for name in args.runs:
                await stores.ledger.forget(name)
                _print({"forgotten": name})
        return EXIT_DONE

    return run_command(prog, run)


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


def _say_what_stays(found: Found, queue: str) -> None:
    """What of the shelf is not replayed, and why, on stderr."""
    if found.first_over_limit and not found.messages:
        raise UsageError(
            f"--limit is less than the {found.first_over_limit} messages of the first body in {queue}, "
            f"which is replayed whole: --limit {found.first_over_limit} or more"
        )
    reasons = {
        "were sent after all": found.sent,
        "are replayed already, or stand there twice": found.repeated,
        "have not come to their end yet and stay": found.still_open,
        "are over --limit and stay": found.over_limit,
        "are of other runs and stay": found.of_other_runs,
    }
    for why, messages in reasons.items():
        if messages:
            print(f"{queue}: {messages:,} messages {why}", file=sys.stderr)
    for why, bodies in found.unusable.items():
        print(f"{queue}: {bodies:,} bodies can't be replayed and stay: {why}", file=sys.stderr)


def _report(result: Audit) -> list[str]:
    """The audit in words, a line for each run and one for all."""
    lines = [f"{run.run}: {_of_run(run)}" for run in result.runs]
    lines += [
        f"all runs: {name} is {counter:,}, but the runs add up to {counted:,}"
        for name, (counter, counted) in result.totals.items()
    ]
    if result.not_at_rest:
        lines.append(f"the queues were not compared: {result.not_at_rest}")
    else:
        lines.append(
            f"{result.bodies_in_queues:,} bodies in the queues, {result.unusable_bodies:,} of them no batch"
        )
    lines.append("the record is right" if result.right else "THE RECORD IS NOT RIGHT")
    return lines


def _of_run(run: RunAudit) -> str:
    words = [
        f"published {run.published:,} = queued {run.queued:,} + sending {run.sending:,} + sent {run.sent:,}"
        f" + failed {run.failed:,}"
    ]
    if run.moving:
        words.append("moves too fast to be recounted")
    words += [
        f"{name} IS {counter:,}, BUT {counted:,} WERE COUNTED"
        for name, (counter, counted) in run.differences.items()
    ]
    if run.repaired:
        words.append(f"{run.repaired:,} that were in no queue are now failed")
    elif run.missing:
        how = "--repair" if run.queue else f"--repair --run {run.run}"
        words.append(f"{run.missing:,} ARE IN NO QUEUE ({how} settles them as failed)")
    if run.unfinished:
        ended = (
            "its gateway ended early: a gateway that runs finishes it"
            if run.by_gateway
            else f"its producer ended early: go on with producer.py --resume {run.run}"
        )
        words.append(f"{ended}, or give it up with smsim audit --repair --run {run.run}")
    return "; ".join(words)
