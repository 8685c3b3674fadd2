"""`smsim scale`: the scaling study, embedded or on RabbitMQ and Redis."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from common.cli import (
    DEFAULT_CONNECT_TIMEOUT_S,
    EXIT_DONE,
    Parser,
    number,
    run_command,
    warn_of_near_misses,
    whole,
)
from common.errors import UsageError
from common.logs import configure_logs
from common.messages import MAX_BATCH_MESSAGES
from common.settings import Settings, load_settings
from studies.charts import needed
from studies.scale.point import Parameters

MOST_SENDERS = 2_000_000
PLAIN_MAX = 200_000
PROCESSES = (1, 2, 4)
BATCH_SIZES = (1, 100, 512)
# Enough that no slot is ever waited for where sends take no time.
SLOTS = 20_000
# What the study sets itself, or keeps as it is, so that its two versions do the same.
LEFT_OUT = (
    *("provider", "provider_profile", "provider_rate", "processing_time_distribution"),
    *("max_attempts", "keep_failed"),
)
ONLY_DISTRIBUTED = ("processes", "batch_sizes", "num_messages", "slots", "connect_timeout")
ONLY_EMBEDDED = ("senders", "max_senders", "messages_per_sender", "plain_max")


def main(argv: list[str] | None = None, prog: str = "smsim scale") -> int:
    """Reads the arguments, measures, draws, and prints what it wrote."""
    args = _parser(prog).parse_args(argv)

    async def run() -> int:
        needed("matplotlib", "psutil")
        mean_s = args.mean_processing_time
        if mean_s is None:
            mean_s = 0.0 if args.distributed else 1.0
        settings = load_settings(
            mean_processing_time=mean_s,
            processing_time_stddev=mean_s / 10
            if args.processing_time_stddev is None
            else args.processing_time_stddev,
            failure_rate=args.failure_rate,
            seed=args.seed,
        )
        _refuse_what_does_not_go_together(args, settings)
        configure_logs("simulation", "WARNING", settings.log_file, sys.stderr)
        warn_of_near_misses()
        written = await (_distributed(args, settings) if args.distributed else _embedded(args, settings))
        sys.stdout.write("".join(f"{path}\n" for path in written))
        return EXIT_DONE

    return run_command(prog, run)


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog,
        "Measures throughput against the number of senders, draws it, and goes on where it was stopped.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("scaling"), help="folder for CSV and figures (default: scaling)"
    )
    parser.add_argument("--fresh", action="store_true", help="start over, whatever is measured already")
    behaviour = parser.add_argument_group("sends")
    behaviour.add_argument(
        "--mean-processing-time", type=number(0, 86_400), help="seconds (default: 1; with --distributed: 0)"
    )
    behaviour.add_argument(
        "--processing-time-stddev", type=number(0, 86_400), help="seconds (default: mean/10)"
    )
    behaviour.add_argument(
        "--failure-rate", type=number(0, 1), help="share of sends that fail (FAILURE_RATE)"
    )
    behaviour.add_argument("--seed", type=whole(0, 2**63 - 1), help="makes messages and sends repeat (SEED)")
    embedded = parser.add_argument_group("embedded sweep")
    which = embedded.add_mutually_exclusive_group()
    which.add_argument("--senders", type=_list_of(whole(1, 10_000_000)), metavar="N,N", help="1,10,100")
    which.add_argument(
        "--max-senders", type=whole(1, 10_000_000), help=f"1, 2, 5, 10 ... (default: {MOST_SENDERS:,})"
    )
    embedded.add_argument("--messages-per-sender", type=whole(1, 100_000), help="default: 10")
    embedded.add_argument(
        "--plain-max",
        type=whole(0),
        help=f"up to how many senders a task per sender is measured beside it, 0 for never (default: {PLAIN_MAX:,})",
    )
    distributed = parser.add_argument_group("sweep on RabbitMQ and Redis")
    distributed.add_argument("--distributed", action="store_true", help="on those of the settings")
    distributed.add_argument(
        "--processes", type=_list_of(whole(1, 1_000)), metavar="N,N", help="sender processes (default: 1,2,4)"
    )
    distributed.add_argument(
        "--batch-sizes",
        type=_list_of(whole(1, MAX_BATCH_MESSAGES)),
        metavar="N,N",
        help="default: 1,100,512",
    )
    distributed.add_argument(
        "--num-messages", type=whole(1), help="default: 60,000 times the batch size, at most 1,000,000"
    )
    distributed.add_argument(
        "--slots", type=whole(1, 10_000_000), help="sends in flight in one sender (default: 20,000)"
    )
    distributed.add_argument("--connect-timeout", type=number(0), help="seconds")
    return parser


async def _embedded(args: argparse.Namespace, settings: Settings) -> Sequence[Path]:
    # Only now, since they import what may not be installed.
    from studies.scale.figures import draw
    from studies.scale.sweep import in_a_process, ladder, open_records, sweep, tasks_of

    parameters = Parameters(
        args.messages_per_sender or 10,
        settings.mean_processing_time,
        settings.stddev_s,
        settings.failure_rate,
        settings.seed,
    )
    plain_max = PLAIN_MAX if args.plain_max is None else args.plain_max
    senders = args.senders or ladder(args.max_senders or MOST_SENDERS)
    records = open_records(args.out, parameters, args.fresh)
    await sweep(tasks_of(senders, plain_max, parameters), records, in_a_process)
    return [records.csv, *draw(records.rows, args.out)]


async def _distributed(args: argparse.Namespace, settings: Settings) -> Sequence[Path]:
    from studies.scale.conditions import conditions
    from studies.scale.distributed import connected
    from studies.scale.figures import draw_loads
    from studies.scale.load import Load, LoadParameters, LoadPoint
    from studies.scale.records import Records

    parameters = LoadParameters(
        args.num_messages,
        args.slots or SLOTS,
        settings.mean_processing_time,
        settings.stddev_s,
        settings.failure_rate,
        settings.seed,
        settings.queue_type.value,
    )
    loads = [
        Load(processes, batch_size, parameters)
        for processes in args.processes or PROCESSES
        for batch_size in args.batch_sizes or BATCH_SIZES
    ]
    connect_timeout_s = DEFAULT_CONNECT_TIMEOUT_S if args.connect_timeout is None else args.connect_timeout
    async with connected(settings, connect_timeout_s) as (study, versions):
        now = conditions(parameters, **versions)
        records = Records(args.out, "distributed", LoadPoint, now, args.fresh)
        await study.sweep(loads, records)
    return [records.csv, *draw_loads(records.rows, args.out)]


def _refuse_what_does_not_go_together(args: argparse.Namespace, settings: Settings) -> None:
    for name in ONLY_EMBEDDED if args.distributed else ONLY_DISTRIBUTED:
        if getattr(args, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} goes {'without' if args.distributed else 'with'} --distributed")
    for name in LEFT_OUT:
        if getattr(settings, name) != Settings.model_fields[name].default:
            raise UsageError(f"the study compares like with like: leave {name.upper()} out")


def _list_of(one: Callable[[str], int]) -> Callable[[str], list[int]]:
    """An argparse type: numbers between commas, each of that type; ascending, none twice."""
    return lambda text: sorted({one(part.strip()) for part in text.split(",")})
