"""`make bench-smoke`, `python -m benchmarks.smoke`: in under two minutes, whether ours has become slower.

Measures ours and plain pika in short interleaved rounds and prints ours / plain pika, beside the same ratio in the
recorded run (docs/performance.json). Machines differ, and a busy one is slow at everything: so ratios are compared, and
their quotient says how ours has changed. Fails only if a run does not add up: a timing proves nothing by itself.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.figures import US
from benchmarks.peers.catalogue import PEERS, PLAIN_PIKA
from benchmarks.processes import BenchmarkFailed
from benchmarks.run import ours
from benchmarks.session import Session
from benchmarks.table import RECORDED, as_table
from common.cli import EXIT_DONE, EXIT_FAILED, Parser, number, whole

LATEST = Path(__file__).parent / "results" / "smoke.json"
MESSAGES = {1: 40_000, 100: 600_000}
# Of what `make bench` gives plain pika.
PIKA_SHARE = 0.5
COLUMNS = ("work", "batch", "ours/s", "plain pika/s", "ours / plain pika", "recorded", "now / recorded")

Ratios = dict[tuple[str, int], float]


def main() -> int:
    """Reads the arguments and measures."""
    parser = Parser("benchmarks.smoke", "Compares ours with plain pika, and with the recorded run.")
    parser.add_argument("--rounds", type=whole(1), default=3, help="medians are over these (default: 3)")
    parser.add_argument("--scale", type=number(0.001, 100), default=1.0, help="multiplies the message counts")
    args = parser.parse_args()
    try:
        results = asyncio.run(_measure(args.rounds, args.scale))
    except BenchmarkFailed as error:
        print(f"benchmarks.smoke: {error}", file=sys.stderr)
        return EXIT_FAILED
    LATEST.parent.mkdir(parents=True, exist_ok=True)
    LATEST.write_text(json.dumps(results, indent=2) + "\n")
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {"figures": []}
    print(as_table(COLUMNS, rows(results, recorded), left=1))
    # Plain pika is the yardstick here, no guest: without it there is nothing to say.
    for peer in results["peers"]:
        if "failure" in peer:
            print(f"benchmarks.smoke: {peer['name']}: {peer['failure']}", file=sys.stderr)
            return EXIT_FAILED
    return EXIT_DONE


def rows(now: dict[str, Any], recorded: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each of our works: rates, ratios, and the quotient of the ratios where both are known."""
    rates, ratios, before = _rates(now), ratios_of(now), ratios_of(recorded)
    found = []
    for (who, work, batch), rate in rates.items():
        if who != US:
            continue
        key = (work, batch)
        found.append(
            (
                *(work, str(batch), f"{rate:,}", _shown(rates.get((PLAIN_PIKA, work, 1)), ",")),
                *(_shown(ratio, ".2f") for ratio in (ratios.get(key), before.get(key))),
                _shown(ratios[key] / before[key] if key in ratios and key in before else None, ".2f"),
            )
        )
    return found


def ratios_of(results: dict[str, Any]) -> Ratios:
    """Ours / plain pika, by our work and batch size; plain pika always has one message per AMQP message."""
    rates = _rates(results)
    return {
        (work, batch): rate / rates[PLAIN_PIKA, work, 1]
        for (who, work, batch), rate in rates.items()
        if who == US and (PLAIN_PIKA, work, 1) in rates
    }


def _rates(results: dict[str, Any]) -> dict[tuple[str, str, int], int]:
    return {(one["who"], one["work"], one["batch_size"]): one["rate_per_s"] for one in results["figures"]}


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


async def _measure(rounds: int, scale: float) -> dict[str, Any]:
    def scaled(messages: int) -> int:
        return max(500, round(messages * scale))

    async with Session.open(peer for peer in PEERS if peer.name == PLAIN_PIKA) as session:
        for done in range(rounds):
            scenarios = [
                *ours(session, 1, scaled(MESSAGES[1])),
                *session.of_peers(PIKA_SHARE * scale),
                *ours(session, 100, scaled(MESSAGES[100])),
            ]
            await session.rounds.add(scenarios, f"round {done + 1} of {rounds}")
        return session.results(rounds=rounds, scale=scale)


if __name__ == "__main__":
    sys.exit(main())
