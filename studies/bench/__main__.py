"""`make bench`, `python -m studies.bench`: ours and its peers on the same servers; tables, JSON and a chart."""

import argparse
import sys

from studies import RESULTS
from studies.bench.chart import draw
from studies.bench.figures import EMBEDDED, OURS, BenchRecord
from studies.bench.peers.catalogue import PEERS
from studies.bench.session import Session
from studies.bench.table import markdown
from studies.bench.works import embedded, of_ours, steady
from studies.command import run_study, study_parser

NAMES = (OURS, EMBEDDED, *(peer.name for peer in PEERS))


def main() -> int:
    """Reads the arguments and measures."""
    parser = study_parser(
        "studies.bench",
        "Measures ours and its peers on real servers, and ours embedded.",
        out=RESULTS / "latest.json",
        rounds=3,
        scales="the message counts",
    )
    parser.add_argument(
        "--only",
        type=names,
        default=NAMES,
        metavar="NAME,NAME",
        help=f"measure these only (default: {','.join(NAMES)})",
    )
    return run_study(parser, _measure, markdown, draw=draw)


def names(text: str) -> tuple[str, ...]:
    """An argparse type: names of what to measure, separated by commas."""
    known = {name.lower(): name for name in NAMES}
    asked = [name.strip().lower() for name in text.split(",")]
    if unknown := [name for name in asked if name not in known]:
        raise argparse.ArgumentTypeError(f"no {unknown[0]!r} here: there are {', '.join(NAMES)}")
    return tuple(known[name] for name in asked)


async def _measure(args: argparse.Namespace) -> BenchRecord:
    async with Session.open(peer for peer in PEERS if peer.name in args.only) as session:
        # First all with one message per AMQP message, as the peers do; then the works of ours alone.
        scenarios = [
            *of_ours(session.ours, 1, args.scale),
            *session.of_peers(args.scale),
            *of_ours(session.ours, 100, args.scale),
            *of_ours(session.ours, 512, args.scale),
            steady(session.ours, args.scale),
            *embedded(args.scale),
        ]
        await session.measure([one for one in scenarios if one.who in args.only], args.rounds)
        return session.record(args.rounds, args.scale)


if __name__ == "__main__":
    sys.exit(main())
