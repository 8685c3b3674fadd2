"""`make bench-smoke`, `python -m studies.bench.smoke`: whether ours has become slower, in less than two minutes.

Measures ours and plain pika in interleaved rounds, and prints ours / plain pika beside the same ratio in the recorded
run (docs/performance.json). Machines differ, and a busy machine is slow at everything, so ratios are compared: their
quotient is the change of ours. A short run is mostly begin and end, so the message counts are those of
`make bench`; with `--scale` nothing is compared. Fails if a run of ours does not add up, or if plain pika, the
yardstick, can't be measured; never because of a time.
"""

import argparse
import sys
from dataclasses import dataclass

from studies import DOCS, RESULTS, record
from studies.bench.figures import OURS, BenchRecord, Figure
from studies.bench.peers.catalogue import PEERS, PLAIN_PIKA
from studies.bench.session import Session
from studies.bench.works import of_ours
from studies.command import run_study, study_parser
from studies.page import Column, table
from studies.process import StudyFailed

RECORDED = DOCS / "performance.json"


def main() -> int:
    """Reads the arguments and measures."""
    parser = study_parser(
        "studies.bench.smoke",
        "Compares ours with plain pika, and with the recorded run.",
        out=RESULTS / "smoke.json",
        rounds=3,
        scales="the message counts",
    )
    return run_study(parser, _measure, markdown)


def markdown(results: BenchRecord) -> str:
    """The comparison with the recorded run."""
    return table(COLUMNS, comparisons(results, record.read(RECORDED, BenchRecord)))


@dataclass(frozen=True)
class Comparison:
    """One of our works beside plain pika's, now and in the recorded run.

    Attributes:
        ours: Our figure.
        pika: Plain pika's; None if it was not measured.
        recorded: Ours / plain pika in the recorded run; None if that had other message counts.
    """

    ours: Figure
    pika: Figure | None
    recorded: float | None

    @property
    def ratio(self) -> float | None:
        """Ours / plain pika."""
        return self.ours.rate_per_s / self.pika.rate_per_s if self.pika else None

    @property
    def change(self) -> float | None:
        """The ratio divided by the recorded one."""
        return self.ratio / self.recorded if self.ratio and self.recorded else None


def comparisons(now: BenchRecord, recorded: BenchRecord) -> list[Comparison]:
    """A comparison for each of our works. Plain pika has no batches: it is the yardstick for every batch size."""
    figures, before = _by_work(now), _by_work(recorded)
    found = []
    for (who, work, batch_size), ours in figures.items():
        if who == OURS:
            pika, old_pika = figures.get((PLAIN_PIKA, work, 1)), before.get((PLAIN_PIKA, work, 1))
            old = before.get((OURS, work, batch_size))
            found.append(Comparison(ours, pika, _ratio_of_as_many(ours, pika, old, old_pika)))
    return found


def _ratio_of_as_many(
    ours: Figure, pika: Figure | None, old: Figure | None, old_pika: Figure | None
) -> float | None:
    """The recorded ratio, if it is of as many messages as the present one."""
    if not (pika and old and old_pika):
        return None
    as_many = (ours.messages, pika.messages) == (old.messages, old_pika.messages)
    return old.rate_per_s / old_pika.rate_per_s if as_many else None


def _by_work(results: BenchRecord) -> dict[tuple[str, str, int | None], Figure]:
    return {(one.who, one.work, one.batch_size): one for one in results.figures}


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


async def _measure(args: argparse.Namespace) -> BenchRecord:
    async with Session.open(peer for peer in PEERS if peer.name == PLAIN_PIKA) as session:
        scenarios = [
            *of_ours(session.ours, 1, args.scale),
            *session.of_peers(args.scale),
            *of_ours(session.ours, 100, args.scale),
        ]
        await session.measure(scenarios, args.rounds)
        for peer, reason in session.rounds.failures.items():
            raise StudyFailed(f"{peer}: {reason}")
        return session.record(args.rounds, args.scale)


COLUMNS = (
    Column[Comparison]("work", lambda row: row.ours.work, left=True),
    Column[Comparison]("batch", lambda row: str(row.ours.batch_size)),
    Column[Comparison]("ours/s", lambda row: f"{row.ours.rate_per_s:,}"),
    Column[Comparison]("plain pika/s", lambda row: f"{row.pika.rate_per_s:,}" if row.pika else ""),
    Column[Comparison]("ours / plain pika", lambda row: _decimal(row.ratio)),
    Column[Comparison]("recorded", lambda row: _decimal(row.recorded)),
    Column[Comparison]("now / recorded", lambda row: _decimal(row.change)),
)

if __name__ == "__main__":
    sys.exit(main())
