"""`make bench`, `python -m studies.bench`: ours and its peers on the same servers; tables, JSON and a chart."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from common.cli import EXIT_DONE, Parser, number, whole
from studies.bench.chart import draw
from studies.bench.embedded import simulate
from studies.bench.figures import EMBEDDED, US
from studies.bench.peers.catalogue import PEERS
from studies.bench.rounds import Scenario
from studies.bench.session import Session
from studies.bench.table import compared, markdown
from studies.command import measured_into

LATEST = Path(__file__).resolve().parents[1] / "results" / "latest.json"
# Messages by batch size, so that each measurement takes some seconds on two cores.
MESSAGES = {1: 60_000, 100: 1_000_000, 512: 1_500_000}
EMBEDDED_MESSAGES = 2_000_000
EMBEDDED_SENDERS = (50_000, 400_000, 1_000_000)
# With a send time of 1 s: messages, and more slots than both cores can keep busy; at any scale eight waves of them.
STEADY = "both at once at 1 s, ramp left out"
STEADY_SIZE = 8_000_000, 1_000_000
NAMES = (US, EMBEDDED, *(peer.name for peer in PEERS))


def main() -> int:
    """Reads the arguments and measures."""
    parser = Parser("studies.bench", "Measures ours and its peers on real servers, and ours embedded.")
    parser.add_argument("--rounds", type=whole(1), default=3, help="medians are over these (default: 3)")
    parser.add_argument("--scale", type=number(0.001, 100), default=1.0, help="multiplies the message counts")
    parser.add_argument(
        "--only",
        type=names,
        default=NAMES,
        metavar="NAME,NAME",
        help=f"measure these only (default: {','.join(NAMES)})",
    )
    parser.add_argument("--out", type=Path, default=LATEST, help=f"where the JSON goes (default: {LATEST})")
    args = parser.parse_args()
    results = measured_into(args.out, parser.prog, _measure(args))
    if compared(results):
        draw(results, args.out.with_suffix(".svg"))
    print(markdown(results))
    return EXIT_DONE


def names(text: str) -> tuple[str, ...]:
    """An argparse type: names of what is measured, with commas between them."""
    known = {name.lower(): name for name in NAMES}
    asked = [name.strip().lower() for name in text.split(",")]
    if unknown := [name for name in asked if name not in known]:
        raise argparse.ArgumentTypeError(f"no {unknown[0]!r} here: there are {', '.join(NAMES)}")
    return tuple(known[name] for name in asked)


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    async with Session.open(peer for peer in PEERS if peer.name in args.only) as session:
        for done in range(args.rounds):
            folder = session.folder / f"round-{done}"
            scenarios = [one for one in _scenarios(session, args.scale, folder) if one.who in args.only]
            await session.rounds.add(scenarios, f"round {done + 1} of {args.rounds}")
        return session.results(rounds=args.rounds, scale=args.scale)


def _scenarios(session: Session, scale: float, folder: Path) -> list[Scenario]:
    """Ours with one message per AMQP message, then the peers, which all do that; then what only ours does."""
    sized = partial(scaled, scale=scale)
    messages, slots = map(sized, STEADY_SIZE)
    return [
        *ours(session, 1, sized(MESSAGES[1])),
        *session.of_peers(scale),
        *(one for size in (100, 512) for one in ours(session, size, sized(MESSAGES[size]))),
        Scenario(US, partial(session.pipeline.steady, STEADY, 512, messages, slots, 1.0)),
        *_embedded(folder, sized),
    ]


def ours(session: Session, batch_size: int, messages: int) -> list[Scenario]:
    """Our own works, in batches of one size."""
    pipeline = session.pipeline
    return [
        Scenario(US, partial(pipeline.publish_then_consume, batch_size, messages)),
        Scenario(US, partial(pipeline.both_at_once, batch_size, messages)),
    ]


def _embedded(folder: Path, sized: Callable[[int], int]) -> list[Scenario]:
    fast = ("embedded, no send time", sized(EMBEDDED_MESSAGES), 50_000, 0.0)
    made = [Scenario(EMBEDDED, partial(simulate, *fast, folder / "no-send-time"))]
    for senders in EMBEDDED_SENDERS:
        paced = (f"embedded, {senders:,} senders at 1 s", sized(10 * senders), senders, 1.0)
        made.append(Scenario(EMBEDDED, partial(simulate, *paced, folder / f"{senders}-senders")))
    return made


def scaled(messages: int, scale: float) -> int:
    """How many messages a measurement has, at least 1,000."""
    return max(1_000, round(messages * scale))


if __name__ == "__main__":
    sys.exit(main())
