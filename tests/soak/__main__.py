"""`make soak`, `python -m tests.soak`: a steady load with rolling restarts of senders, and memory over time."""

import asyncio
import dataclasses
import json
import logging
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from common.cli import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, Parser, number, whole
from studies.servers import conditions
from tests.runners import ServersUnavailableError
from tests.servers import RabbitServer, RedisServer
from tests.soak.samples import Trend
from tests.soak.soak import ALL_LIVES, Load, Soak, open_soak

LATEST = Path(__file__).parent / "results" / "latest.json"
MINUTES, RATE, POSTS = 20.0, 2000, 200
RESTART_EVERY_S, WAVE_EVERY_S, SAMPLE_EVERY_S = 10.0, 5.0, 2.0


def main(argv: list[str] | None = None) -> int:
    """Soaks as the arguments say. The exit code is 1 if a total is wrong or file descriptors leak."""
    parser = Parser(
        "tests.soak", "Keeps a pipeline at work while its senders are restarted; looks for what grows."
    )
    parser.add_argument(
        "--minutes", type=number(0.1), default=MINUTES, help=f"how long (default: {MINUTES:g})"
    )
    parser.add_argument(
        "--rate", type=whole(1, 100_000), default=RATE, help=f"messages a second (default: {RATE})"
    )
    parser.add_argument(
        "--posts",
        type=whole(1, 10_000),
        default=POSTS,
        help=f"messages a second that are posted to a gateway, besides (default: {POSTS})",
    )
    parser.add_argument("--seed", type=whole(0), default=1, help="of which senders are killed")
    parser.add_argument("--out", type=Path, default=LATEST, help=f"where the JSON goes (default: {LATEST})")
    args = parser.parse_args(argv)
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    load = Load(
        seconds=args.minutes * 60,
        rate=args.rate,
        restart_every_s=RESTART_EVERY_S,
        wave_every_s=WAVE_EVERY_S,
        sample_every_s=SAMPLE_EVERY_S,
        posts=args.posts,
    )
    try:
        results = uvloop.run(_until_sigterm(load, args.seed))
    except ServersUnavailableError as error:
        sys.stderr.write(f"tests.soak: {error}\n")
        return EXIT_FAILED
    except (KeyboardInterrupt, asyncio.CancelledError):
        return EXIT_INTERRUPTED
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=2) + "\n")
    sys.stdout.write(table(results) + "\n")
    return EXIT_FAILED if results["troubles"] else EXIT_DONE


async def soak(load: Load, seed: int) -> dict[str, Any]:
    """Soaks on private servers and returns the results."""
    with (
        tempfile.TemporaryDirectory(prefix="smsim-soak-") as folder,
        RabbitServer() as rabbit,
        RedisServer() as redis,
    ):
        async with open_soak(load, seed, Path(folder), rabbit, redis) as it:
            await it.run()
        return {
            **msgspec.to_builtins(conditions(rabbit, redis)),
            "load": dataclasses.asdict(load),
            **report(it),
        }


def report(it: Soak) -> dict[str, Any]:
    """The results of a soak. A growing number of file descriptors counts as a trouble."""
    trends = it.sampler.trends()
    leaks = [
        f"{name}: {one.fds_last_third[0]} to {one.fds_last_third[1]} open files in the end,"
        f" {one.fds_first_third[0]} to {one.fds_first_third[1]} in the beginning"
        for name, one in trends.items()
        # A process that has just started has few open files, so this check does not apply to restarted senders.
        if one.fds_grow and not name.endswith(ALL_LIVES)
    ]
    account = dataclasses.asdict(it.account)
    return {
        **account,
        "troubles": account["troubles"] + leaks,
        "processes": {name: dataclasses.asdict(one) for name, one in trends.items()},
    }


def table(results: dict[str, Any]) -> str:
    """The results in Markdown."""
    totals = results["totals"]
    lines = [
        f"{results['published']:,} messages, {results['accepted']:,} of them through the gateway, over"
        f" {results['elapsed_s'] / 60:.1f} minutes;"
        f" {results['stopped']} senders stopped and {results['killed']} killed.",
        f"{totals.get('sent', 0):,} sent, {totals.get('failed', 0):,} failed, {totals.get('retried', 0):,} retried,"
        f" {totals.get('ambiguous', 0):,} ambiguous.",
        "",
        "| process | memory | highest | slope | open files, first third | last third |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, values in results["processes"].items():
        one = Trend(**values)
        lines.append(
            f"| {name} | {one.rss_mb:.1f} MB | {one.rss_highest_mb:.1f} MB | {one.rss_mb_per_hour:+.1f} MB/h"
            f" | {one.fds_first_third[0]} to {one.fds_first_third[1]}"
            f" | {one.fds_last_third[0]} to {one.fds_last_third[1]} |"
        )
    if results["troubles"]:
        lines += ["", *(f"- {trouble}" for trouble in results["troubles"])]
    return "\n".join(lines)


async def _until_sigterm(load: Load, seed: int) -> dict[str, Any]:
    """Ends the servers and processes on SIGTERM, as on Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await soak(load, seed)


if __name__ == "__main__":
    sys.exit(main())
