"""`smsim simulate`: an embedded run with a live view and a summary."""

import argparse
import json
import sys

from msgspec.structs import replace

from common.cli import (
    EXIT_FAILED,
    Parser,
    in_background,
    number,
    run_command,
    stop_on_signals,
    warn_of_near_misses,
    whole,
)
from common.ledger.values import Snapshot
from common.logs import configure_logs
from common.messages import Lane, new_run_id
from common.settings import Settings, load_settings
from common.statistics import Statistics, statistics
from producer.arguments import add_source_arguments, check_source_arguments, dropped, open_source
from sender.providers.profiles import refuse_beside_profile
from simulation.pipeline import Simulation, fitting_batch_size, simulate


def main(argv: list[str] | None = None, prog: str = "smsim simulate") -> int:
    """Reads the arguments, runs the pipeline in this process, and prints a summary."""
    args = _parser(prog).parse_args(argv)
    return run_command(prog, lambda: _run(args))


async def _run(args: argparse.Namespace) -> int:
    check_source_arguments(args)
    settings = _settings(args)
    configure_logs("simulation", "WARNING", settings.log_file, sys.stderr)
    warn_of_near_misses()
    simulation = await in_background(lambda: _simulation(args, settings))
    live = not args.json and sys.stdout.isatty()
    snapshot = await simulate(simulation, stop_on_signals(), live)
    # The pipeline's one sender has ended; `--senders` counts its slots.
    stats = replace(statistics(snapshot), senders=simulation.in_flight)
    if args.json:
        result = {"run": simulation.run, **stats.as_json(), **dropped(simulation.source)}
        print(json.dumps(result), flush=True)
    else:
        print(summary(simulation, stats), flush=True)
    return 0 if _complete(snapshot, simulation.source.count) else EXIT_FAILED


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = Parser(prog, "Runs producer, senders and monitor in one process, with no server.")
    add_source_arguments(parser, resume=False, batch_size="(default: suits the number of senders)")
    parser.add_argument(
        "--senders",
        type=whole(1, 10_000_000),
        default=1_000,
        help="most sends in flight; a tenth more with --urgent",
    )
    _add_behaviour_arguments(parser)
    parser.add_argument(
        "--max-attempts",
        type=whole(1, 1000),
        help="attempts before a message is failed (MAX_ATTEMPTS)",
    )
    parser.add_argument("--seed", type=whole(0, 2**63 - 1), help="makes the run repeat exactly (SEED)")
    parser.add_argument(
        "--json",
        action="store_true",
        help="the summary as one JSON object on stdout, and no live view",
    )
    return parser


def _add_behaviour_arguments(parser: argparse.ArgumentParser) -> None:
    seconds = number(0, 86_400)
    parser.add_argument("--mean-processing-time", type=seconds, help="seconds (MEAN_PROCESSING_TIME)")
    parser.add_argument("--processing-time-stddev", type=seconds, help="seconds (default: mean/10)")
    parser.add_argument("--failure-rate", type=number(0, 1), help="share of sends that fail (FAILURE_RATE)")
    parser.add_argument(
        "--profile",
        help="a built-in profile's name, or a YAML file; replaces those three (PROVIDER_PROFILE)",
    )


def _settings(args: argparse.Namespace) -> Settings:
    """The settings in force. Raises UsageError."""
    behaviour = {
        "mean_processing_time": args.mean_processing_time,
        "processing_time_stddev": args.processing_time_stddev,
        "failure_rate": args.failure_rate,
    }
    settings = load_settings(
        batch_size=args.batch_size,
        max_attempts=args.max_attempts,
        seed=args.seed,
        provider_profile=args.profile,
        **behaviour,
    )
    refuse_beside_profile(settings, behaviour)
    return settings


def _simulation(args: argparse.Namespace, settings: Settings) -> Simulation:
    return Simulation(
        run=args.run or new_run_id(),
        source=open_source(args, settings),
        senders=args.senders,
        batch_size=args.batch_size or fitting_batch_size(args.senders),
        lane=Lane.URGENT if args.urgent else Lane.BULK,
        settings=settings,
    )


def _complete(snapshot: Snapshot, count: int) -> bool:
    """Whether every message of the source was published and settled."""
    return snapshot.published == count and snapshot.sent + snapshot.failed == count


def summary(simulation: Simulation, stats: Statistics) -> str:
    """The summary of a run, for people."""
    open_messages = stats.published - stats.sent - stats.failed
    verdict = f"{open_messages:,} open" if open_messages else "every message accounted for"
    percentiles = {"p50": stats.p50_s, "p95": stats.p95_s, "p99": stats.p99_s}
    times = [f"{name} {value:.3g} s" for name, value in percentiles.items() if value is not None]
    return (
        f"run {simulation.run}: {stats.published:,} messages through {stats.senders:,} senders"
        f" in {stats.elapsed_s:.2f} s ({stats.rate_per_s:,.0f} messages/s)\n"
        f"  sent {stats.sent:,}, failed {stats.failed:,}: {verdict}\n"
        f"  processing time: {', '.join(times)}"
    )
