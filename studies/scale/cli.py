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
from studies.command import require

# The study sets these itself, or leaves them, so that both versions do the same.
REFUSED_SETTINGS = (
    "provider",
    "provider_profile",
    "provider_rate",
    "processing_time_distribution",
    "max_attempts",
    "keep_failed",
)
ONLY_DISTRIBUTED = ("processes", "batch_sizes", "num_messages", "slots", "connect_timeout")
ONLY_EMBEDDED = ("senders", "max_senders", "messages_per_sender", "plain_max")


def main(argv: list[str] | None = None, prog: str = "smsim scale") -> int:
    """Reads the arguments, measures, draws, and prints the paths that it wrote."""
    args = _parser(prog).parse_args(argv)

    async def run() -> int:
        require("matplotlib", "psutil")
        settings = _settings(args)
        _refuse(args, settings)
        configure_logs("simulation", "WARNING", settings.log_file, sys.stderr)
        warn_of_near_misses()
        written = await (_distributed(args, settings) if args.distributed else _embedded(args, settings))
        sys.stdout.write("".join(f"{path}\n" for path in written))
        return EXIT_DONE

    return run_command(prog, run)


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog, "Measures throughput against the number of senders and draws it. A stopped study is continued."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("scaling"), help="folder for CSV and figures (default: scaling)"
    )
    parser.add_argument("--fresh", action="store_true", help="discard the points measured before")
    _add_sends(parser.add_argument_group("sends"))
    _add_embedded(parser.add_argument_group("embedded sweep"))
    _add_distributed(parser.add_argument_group("sweep on RabbitMQ and Redis"))
    return parser


def _add_sends(group: "argparse._ArgumentGroup") -> None:
    time_s = number(0, 86_400)
    group.add_argument(
        "--mean-processing-time", type=time_s, help="seconds (default: 1; with --distributed: 0)"
    )
    group.add_argument("--processing-time-stddev", type=time_s, help="seconds (default: mean/10)")
    group.add_argument("--failure-rate", type=number(0, 1), help="share of sends that fail (FAILURE_RATE)")
    group.add_argument("--seed", type=whole(0, 2**63 - 1), help="makes messages and sends repeatable (SEED)")


def _add_embedded(group: "argparse._ArgumentGroup") -> None:
    senders = whole(1, 10_000_000)
    which = group.add_mutually_exclusive_group()
    which.add_argument("--senders", type=_list_of(senders), metavar="N,N", help="1,10,100")
    which.add_argument("--max-senders", type=senders, help="1, 2, 5, 10 ... (default: 2,000,000)")
    group.add_argument(
        "--messages-per-sender",
        type=whole(1, 100_000),
        help="default: 10",
    )
    group.add_argument(
        "--plain-max",
        type=whole(0),
        help="up to how many senders to measure a task per sender, too; 0 for never (default: 200,000)",
    )


def _add_distributed(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--distributed", action="store_true", help="on the servers of the settings")
    group.add_argument(
        "--processes",
        type=_list_of(whole(1, 1_000)),
        metavar="N,N",
        help="sender processes (default: 1,2,4)",
    )
    group.add_argument(
        "--batch-sizes",
        type=_list_of(whole(1, MAX_BATCH_MESSAGES)),
        metavar="N,N",
        help="default: 1,100,512",
    )
    group.add_argument(
        "--num-messages", type=whole(1), help="default: 60,000 times the batch size, at most 1,000,000"
    )
    group.add_argument(
        "--slots",
        type=whole(1, 10_000_000),
        help="sends in flight in one sender (default: 20,000)",
    )
    group.add_argument("--connect-timeout", type=number(0), help="seconds")


def _settings(args: argparse.Namespace) -> Settings:
    mean_s, stddev_s = args.mean_processing_time, args.processing_time_stddev
    if mean_s is None:
        mean_s = 0.0 if args.distributed else 1.0
    return load_settings(
        mean_processing_time=mean_s,
        processing_time_stddev=mean_s / 10 if stddev_s is None else stddev_s,
        failure_rate=args.failure_rate,
        seed=args.seed,
    )


def _refuse(args: argparse.Namespace, settings: Settings) -> None:
    """Raises UsageError for flags and settings that do not go together."""
    for name in ONLY_EMBEDDED if args.distributed else ONLY_DISTRIBUTED:
        if getattr(args, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} goes {'without' if args.distributed else 'with'} --distributed")
    for name in REFUSED_SETTINGS:
        if getattr(settings, name) != Settings.model_fields[name].default:
            raise UsageError(f"the study compares like with like: leave {name.upper()} out")


async def _embedded(args: argparse.Namespace, settings: Settings) -> Sequence[Path]:
    # These import optional packages.
    from studies.scale.charts import draw
    from studies.scale.points import Parameters
    from studies.scale.records import EmbeddedSweep, Records
    from studies.scale.sweep import in_a_process, ladder, sweep, tasks_of

    parameters = Parameters(
        messages_per_sender=args.messages_per_sender or 10,
        mean_s=settings.mean_processing_time,
        stddev_s=settings.stddev_s,
        failure_rate=settings.failure_rate,
        seed=settings.seed,
    )
    records = Records(args.out, "points", EmbeddedSweep, parameters=parameters, fresh=args.fresh)
    plain_max = 200_000 if args.plain_max is None else args.plain_max
    senders = args.senders or ladder(args.max_senders or 2_000_000)
    await sweep(tasks_of(senders, plain_max, parameters), records, in_a_process)
    return [records.csv, *draw(records.sweep.points, args.out)]


async def _distributed(args: argparse.Namespace, settings: Settings) -> Sequence[Path]:
    from studies.scale.charts import draw_loads
    from studies.scale.distributed import connected
    from studies.scale.points import Load, LoadParameters
    from studies.scale.records import DistributedSweep, Records

    parameters = LoadParameters(
        num_messages=args.num_messages,
        slots=args.slots or 20_000,
        mean_s=settings.mean_processing_time,
        stddev_s=settings.stddev_s,
        failure_rate=settings.failure_rate,
        seed=settings.seed,
        queue_type=settings.queue_type.value,
    )
    loads = [
        Load(processes, batch_size, parameters)
        for processes in args.processes or (1, 2, 4)
        for batch_size in args.batch_sizes or (1, 100, 512)
    ]
    timeout_s = DEFAULT_CONNECT_TIMEOUT_S if args.connect_timeout is None else args.connect_timeout
    async with connected(settings, timeout_s) as (study, versions):
        records = Records(
            args.out,
            "distributed",
            DistributedSweep,
            parameters=parameters,
            servers=versions,
            fresh=args.fresh,
        )
        await study.sweep(loads, records)
    return [records.csv, *draw_loads(records.sweep.points, args.out)]


def _list_of(one: Callable[[str], int]) -> Callable[[str], list[int]]:
    """An argparse type: numbers between commas, each of that type; ascending, without repeats."""
    return lambda text: sorted({one(part.strip()) for part in text.split(",")})
