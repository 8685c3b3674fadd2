"""`smsim stats`: samples services while a command runs, and draws their CPU time and memory."""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from common.cli import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Parser,
    number,
    run_command,
    stop_on_signals,
    whole,
)
from common.errors import UsageError
from studies.command import require
from studies.stats import VOLUME

if TYPE_CHECKING:
    from studies.stats.study import Study


def main(argv: list[str] | None = None, prog: str = "smsim stats") -> int:
    """Reads the arguments, samples, writes the files and prints a summary on stdout."""
    given = sys.argv[1:] if argv is None else argv
    ours, command = given, list[str]()
    if "--" in given:
        cut = given.index("--")
        ours, command = given[:cut], given[cut + 1 :]
    args = _parser(prog).parse_args(ours)

    async def run() -> int:
        _check(args, command, "--" in given)
        require("psutil", "matplotlib")
        return await _study(args, command)

    return run_command(prog, run)


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog,
        "Samples CPU and memory of services over time: before, during and after a command that follows --,"
        " or until Ctrl-C.",
    )
    parser.add_argument(
        "--watch",
        nargs="+",
        action="extend",
        type=_process,
        default=[],
        metavar="PID[=NAME]",
        help="processes, each with its children; those of the same name count together",
    )
    parser.add_argument(
        "--containers",
        nargs="*",
        action="extend",
        metavar="PROJECT|NAME",
        help="the running containers of these compose projects, services or names; all without a name",
    )
    parser.add_argument("--interval", type=number(0.05, 3600), default=0.5, help="seconds (default: 0.5)")
    parser.add_argument(
        "--lead", type=number(0, 86_400), default=2.0, help="seconds before a run (default: 2)"
    )
    parser.add_argument("--trail", type=number(0, 86_400), default=3.0, help="seconds after it (default: 3)")
    parser.add_argument("--seconds", type=number(0.1, 1e9), help="how long to sample without a command")
    parser.add_argument(
        "--volumes", type=_volumes, metavar="N,N,…", help=f"one run for each, put in place of {VOLUME}"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("stats"), help="folder of the results (default: stats)"
    )
    parser.add_argument("--json", action="store_true", help="the summary as one JSON object on stdout")
    return parser


def _check(args: argparse.Namespace, command: list[str], separated: bool) -> None:
    """Raises UsageError for flags that do not go together."""
    if separated and not command:
        raise UsageError("no command after --")
    if not (args.watch or args.containers is not None or command):
        raise UsageError("nothing to sample: say --watch PID, --containers, or a command after --")
    if command and args.seconds is not None:
        raise UsageError("--seconds is for sampling without a command: leave it out, or the command")
    has_volume = any(VOLUME in word for word in command)
    if args.volumes and not has_volume:
        raise UsageError(f"--volumes needs a command with {VOLUME} in it")
    if has_volume and not args.volumes:
        raise UsageError(f"{VOLUME} in the command needs --volumes")


async def _study(args: argparse.Namespace, command: list[str]) -> int:
    # These import the optional packages.
    from studies.stats.containers import Containers
    from studies.stats.processes import Processes
    from studies.stats.sampling import Sampler, Timing, Watched
    from studies.stats.study import Plan, Study

    processes, stop = Processes(), stop_on_signals()
    for pid, name in args.watch:
        processes.add(pid, name)
    _prepare(args.out)
    async with contextlib.AsyncExitStack() as closing:
        watched: list[Watched] = [processes]
        if args.containers is not None:
            watched.append(await closing.enter_async_context(Containers(args.containers)))
        study = Study(Sampler(watched, Timing(args.interval), stop), processes, stop)
        try:
            if command:
                plan = Plan(command, args.volumes or [None], lead_s=args.lead, trail_s=args.trail)
                await study.carry_out(plan)
            else:
                sys.stderr.write(f"sampling every {args.interval:g} s; Ctrl-C ends it\n")
                await study.observe(args.seconds or float("inf"))
        finally:
            _report(study, args.out, as_json=args.json)  # also after an error: no samples may be lost
    if command and stop.is_set():
        return EXIT_INTERRUPTED
    return EXIT_DONE if not any(run.code for run in study.runs) else EXIT_FAILED


def _report(study: "Study", folder: Path, *, as_json: bool) -> None:
    """Writes the files and prints the summary."""
    from studies.stats.report import text, write

    if study.runs and study.sampler.samples:
        summary = write(folder, study.sampler, study.runs)
        output = msgspec.json.encode(summary).decode() if as_json else text(summary)
        sys.stdout.write(f"{output}\n")


def _process(text: str) -> tuple[int, str | None]:
    """An argparse type: PID or PID=NAME."""
    pid, named, name = text.partition("=")
    if not pid.isdecimal() or int(pid) == 0 or (named and not name.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is neither PID nor PID=NAME")
    return int(pid), name.strip() or None


def _volumes(text: str) -> list[int]:
    """An argparse type: whole numbers, separated by commas, in any order."""
    return [whole(1)(part) for part in text.split(",")]


def _prepare(folder: Path) -> None:
    """Raises UsageError if the results can't be written: better now than after the runs."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "samples.csv").touch()
    except OSError as error:
        raise UsageError(f"--out {folder}: can't be written: {error.strerror}") from None
