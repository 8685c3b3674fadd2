"""`make bench-smoke`, `python -m studies.bench.smoke`: in under two minutes, whether ours has become slower.

Measures ours and plain pika in interleaved rounds and prints ours / plain pika, beside the same ratio in the recorded
run (docs/performance.json). Machines differ, and a busy one is slow at everything: so ratios are compared, and their
quotient says how ours has changed. Beginnings and ends weigh more in a short run: so the message counts are those of
`make bench`, and a ratio of other counts than these (`--scale`) is compared with none. Fails if a run of ours does not
add up, or if plain pika can't be measured, for it is the yardstick; not for a timing, which proves nothing by itself.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import EXIT_DONE, EXIT_FAILED, Parser, number, whole
from studies.bench.__main__ import MESSAGES, ours, scaled
from studies.bench.figures import US
from studies.bench.peers.catalogue import PEERS, PLAIN_PIKA
from studies.bench.session import Session
from studies.bench.table import RECORDED, as_table
from studies.command import measured_into

LATEST = Path(__file__).resolve().parents[1] / "results" / "smoke.json"
COLUMNS = ("work", "batch", "ours/s", "plain pika/s", "ours / plain pika", "recorded", "now / recorded")


def main() -> int:
    """Reads the arguments and measures."""
    parser = Parser("studies.bench.smoke", "Compares ours with plain pika, and with the recorded run.")
    parser.add_argument("--rounds", type=whole(1), default=3, help="medians are over these (default: 3)")
    parser.add_argument("--scale", type=number(0.001, 100), default=1.0, help="multiplies the message counts")
    args = parser.parse_args()
    results = measured_into(LATEST, parser.prog, _measure(args.rounds, args.scale))
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {"figures": []}
    print(as_table(COLUMNS, rows(results, recorded), left=1))
    for peer in results["peers"]:
        if "failure" in peer:
            print(f"studies.bench.smoke: {peer['name']}: {peer['failure']}", file=sys.stderr)
            return EXIT_FAILED
    return EXIT_DONE


@dataclass(frozen=True)
class Ratio:
    """Ours / plain pika, and how many messages either had."""

    times: float
    messages: tuple[int, int]


def rows(now: dict[str, Any], recorded: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each of our works: rates, ratios, and the quotient of the ratios where both are of as many messages."""
    figures, ratios, before = _figures(now), ratios_of(now), ratios_of(recorded)
    found = []
    for (who, work, batch), figure in figures.items():
        if who != US:
            continue
        ratio, old = ratios.get((work, batch)), before.get((work, batch))
        if ratio and old and ratio.messages != old.messages:
            old = None
        pika = figures.get((PLAIN_PIKA, work, 1), {})
        found.append(
            (
                *(work, str(batch), f"{figure['rate_per_s']:,}", _shown(pika.get("rate_per_s"), ",")),
                *(_shown(one.times if one else None, ".2f") for one in (ratio, old)),
                _shown(ratio.times / old.times if ratio and old else None, ".2f"),
            )
        )
    return found


def ratios_of(results: dict[str, Any]) -> dict[tuple[str, int], Ratio]:
    """By our work and batch size; plain pika always has one message per AMQP message."""
    figures = _figures(results)
    found = {}
    for (who, work, batch), mine in figures.items():
        if who == US and (pika := figures.get((PLAIN_PIKA, work, 1))):
            times = mine["rate_per_s"] / pika["rate_per_s"]
            found[work, batch] = Ratio(times, (mine["messages"], pika["messages"]))
    return found


def _figures(results: dict[str, Any]) -> dict[tuple[str, str, int], dict[str, Any]]:
    return {(one["who"], one["work"], one["batch_size"]): one for one in results["figures"]}


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


async def _measure(rounds: int, scale: float) -> dict[str, Any]:
    async with Session.open(peer for peer in PEERS if peer.name == PLAIN_PIKA) as session:
        for done in range(rounds):
            single, hundred = (ours(session, size, scaled(MESSAGES[size], scale)) for size in (1, 100))
            scenarios = [*single, *session.of_peers(scale), *hundred]
            await session.rounds.add(scenarios, f"round {done + 1} of {rounds}")
        return session.results(rounds=rounds, scale=scale)


if __name__ == "__main__":
    sys.exit(main())
