"""`make chaos`, `python -m tests.chaos`: applies faults to running processes and servers, and audits the result."""

import argparse
import asyncio
import json
import logging
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from common.cli import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, Parser, whole
from studies.servers import conditions
from tests.chaos.clock import NoCompilerError
from tests.chaos.driver import Grounds, play
from tests.chaos.faults import FAULTS
from tests.chaos.table import markdown
from tests.runners import ServersUnavailableError
from tests.servers import RabbitServer, RedisServer

LATEST = Path(__file__).parent / "results" / "latest.json"
MESSAGES, RUNS = 200_000, 1
# The part that `make test` has time for: about a dozen seconds each.
SHORT_FAULTS = ("senders-killed", "connections-cut", "redis-killed", "redis-failover")
SHORT_MESSAGES = 2_000


def main(argv: list[str] | None = None) -> int:
    """Plays the faults that the arguments name. The exit code is 1 if an invariant was violated."""
    parser = Parser("tests.chaos", "Strikes a pipeline at work with faults, and audits what became of it.")
    parser.add_argument(
        "--faults", type=_faults, metavar="A,B", help=f"which (default: all): {', '.join(FAULTS)}"
    )
    parser.add_argument("--messages", type=whole(100), help=f"messages a run (default: {MESSAGES})")
    parser.add_argument("--runs", type=whole(1), default=RUNS, help=f"runs of each fault (default: {RUNS})")
    parser.add_argument(
        "--seed", type=whole(0), default=1, help="of the first run; the next has the next one"
    )
    parser.add_argument("--out", type=Path, default=LATEST, help=f"where the JSON goes (default: {LATEST})")
    parser.add_argument("--short", action="store_true", help="few faults and messages, under a minute")
    args = parser.parse_args(argv)
    faults = args.faults or (list(SHORT_FAULTS) if args.short else list(FAULTS))
    messages = args.messages or (SHORT_MESSAGES if args.short else MESSAGES)
    for complaining in ("pika", "common"):  # they log an error for each server that is killed
        logging.getLogger(complaining).setLevel(logging.CRITICAL)
    try:
        results = uvloop.run(_until_sigterm(faults, messages, args.runs, args.seed))
    except ServersUnavailableError as error:
        sys.stderr.write(f"tests.chaos: {error}\n")
        return EXIT_FAILED
    except (KeyboardInterrupt, asyncio.CancelledError):
        return EXIT_INTERRUPTED
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=2) + "\n")
    sys.stdout.write(markdown(results) + "\n")
    held = not results["broken"] and not any(run["troubles"] for run in results["runs"])
    return EXIT_DONE if held else EXIT_FAILED


async def chaos(faults: list[str], messages: int, runs: int, seed: int) -> dict[str, Any]:
    """Plays each fault this many times and returns the results."""
    played: list[dict[str, Any]] = []
    not_run: dict[str, str] = {}
    broken: list[str] = []
    with Grounds() as grounds, tempfile.TemporaryDirectory(prefix="smsim-chaos-") as place:
        for name in faults:
            for number in range(seed, seed + runs):
                folder = Path(place) / f"{name}-{number}"
                folder.mkdir()
                try:
                    result = await play(FAULTS[name], number, messages, grounds, folder)
                except (NoCompilerError, ServersUnavailableError) as error:
                    not_run[name] = str(error)
                    break
                except Exception as error:  # noqa: BLE001  # an error of the suite itself must not lose the other runs
                    broken.append(f"{name} {number}: {error!r}")
                    sys.stderr.write("".join(traceback.format_exception(error)))
                    continue
                played.append(result)
                _tell(result)
        plain = (grounds.server(RabbitServer), grounds.server(RedisServer))
        return {
            **msgspec.to_builtins(conditions(*plain)),
            "seed": seed,
            "not_run": not_run,
            "broken": broken,
            "runs": played,
        }


async def _until_sigterm(*arguments: Any) -> dict[str, Any]:
    """Ends the servers and processes on SIGTERM, as on Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await chaos(*arguments)


def _faults(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in FAULTS:
            raise argparse.ArgumentTypeError(f"no fault {name!r}: there are {', '.join(FAULTS)}")
    return names


def _tell(run: dict[str, Any]) -> None:
    """Prints a line on a finished run, and its violations."""
    what = (
        f"{run['fault']} {run['seed']}: {run['strikes']} strikes, {run['messages']:,} messages"
        f" in {run['elapsed_s']:.0f} s, batches of {run['batch_size']}: {run['lost']} lost,"
        f" {run['counted_twice']} counted twice, {run['sent_twice']} sent twice ({run['ambiguous']} ambiguous),"
        f" recovered in {run['recovery_s']} s"
    )
    sys.stderr.write("\n  ".join([what, *run["troubles"]]) + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
