"""How long a message takes from the moment it is due to its settle: `make latency`, `python -m studies.latency`.

Open arrivals: `producer.py --rate R` publishes each message when it is due, whatever happened to those before it. A
message's latency counts from that moment, so that a stall counts for every message that came due in it (no coordinated
omission). One sender, without a send time, settles them. Two runs as fast as possible find the saturation. Then loads
follow as shares of it, up to past it, where latency grows for as long as the load lasts. Each run must add up exactly,
or there are no figures. Prints a table; writes JSON, CSV and the chart into `--out`.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from common.cli import number
from studies import DOCS, record
from studies.command import run_study, study_parser
from studies.latency.bench import Bench, Publication
from studies.latency.chart import draw
from studies.latency.figures import LatencyRecord, Point, markdown, median_point, percentiles
from studies.latency.noting import SETTLED
from studies.process import Process
from studies.servers import Servers


@dataclass(frozen=True)
class Plan:
    """The measurements to make.

    Attributes:
        saturating: Messages of a run as fast as possible, by batch size: some seconds' worth on two cores.
        shares: The loads, as shares of the saturation.
        warm_up_s: Messages due in it do not count: code is cold, and the sender's prefetch still grows.
        slots: Slots of the sender.
    """

    saturating: dict[int, int] = field(default_factory=lambda: {1: 60_000, 100: 1_500_000})
    shares: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
    warm_up_s: float = 1.0
    slots: int = 20_000


PLAN = Plan()


def main() -> int:
    """Reads the arguments and measures."""
    parser = study_parser(
        "studies.latency", "Measures latency against offered load.", out=DOCS / "capacity", rounds=1
    )
    parser.add_argument("--seconds", type=number(2, 600), default=8.0, help="duration of each load")
    return run_study(parser, _measure, markdown, file="latency.json", draw=_draw)


def _draw(results: LatencyRecord, path: Path) -> None:
    record.write_csv(path.with_suffix(".csv"), [msgspec.structs.asdict(point) for point in results.points])
    draw(results, path.parent)


async def _measure(args: argparse.Namespace) -> LatencyRecord:
    saturation: dict[int, int] = {}
    points: list[Point] = []
    async with Servers.started() as servers:
        for batch_size in PLAN.saturating:
            with tempfile.TemporaryDirectory() as folder:
                loads = _Loads(servers, batch_size, Path(folder))
                points += await loads.measure(args.seconds, args.rounds)
            saturation[batch_size] = round(loads.saturation_per_s)
        return LatencyRecord(
            **servers.conditions(),
            seconds=args.seconds,
            warm_up_s=PLAN.warm_up_s,
            rounds=args.rounds,
            sender_concurrency=PLAN.slots,
            saturation_per_s=saturation,
            points=points,
        )


class _Loads:
    """All loads in batches of one size, through one sender."""

    def __init__(self, servers: Servers, batch_size: int, folder: Path) -> None:
        self.saturation_per_s = 0.0
        self._batch_size = batch_size
        self._bench = Bench(
            servers, folder, role=SETTLED, mean_processing_time=0, sender_concurrency=PLAN.slots
        )

    async def measure(self, seconds: float, rounds: int) -> list[Point]:
        """A point for each load: the median of the rounds."""
        points: list[Callable[[], Point]] = []
        with self._bench.sender() as sender:
            await self._bench.pipeline.ready(sender)
            self.saturation_per_s = await self._saturation(sender)
            for turn in range(rounds):
                for number, share in enumerate(PLAN.shares):
                    points.append(await self._carry(f"r{turn}-{number}", share, seconds, sender))
        # Only now, at its end, the sender has written the moments that it noted.
        made = [point() for point in points]
        return [median_point(made[number :: len(PLAN.shares)]) for number in range(len(PLAN.shares))]

    async def _saturation(self, sender: Process) -> float:
        """Messages a second as fast as possible: the better of two runs, since the first is cold."""
        rates = []
        for name in "saturation-1", "saturation-2":
            load = Publication(name, PLAN.saturating[self._batch_size], batch_size=self._batch_size)
            await self._bench.publish(load, sender)
            rates.append(load.messages / await self._bench.settled(load, sender))
        return max(rates)

    async def _carry(self, name: str, share: float, seconds: float, sender: Process) -> Callable[[], Point]:
        """Publishes a load and waits for its last settle. Returns how to get its point."""
        rate_per_s = float(f"{share * self.saturation_per_s:.2g}")
        load = Publication(name, round(rate_per_s * seconds), rate_per_s, self._batch_size)
        behind_s = await self._bench.publish(load, sender)
        await self._bench.settled(load, sender)
        print(
            f"{rate_per_s:,.0f}/s in batches of {load.batch_size}: {behind_s:.3f} s behind", file=sys.stderr
        )
        return partial(self._point, load, share, behind_s)

    def _point(self, load: Publication, share: float, behind_s: float) -> Point:
        settled, due = self._bench.noted_s(load), self._bench.due_s(load)
        waits_s = (settled - due)[due >= due[0] + PLAN.warm_up_s]
        p50_s, p95_s, p99_s, max_s = percentiles(waits_s, 50, 95, 99, 100, digits=5)
        return Point(
            batch_size=load.batch_size,
            share=share,
            offered_per_s=load.rate_per_s,
            messages=waits_s.size,
            settled_per_s=round(load.messages / float(settled.max() - due[0]), 1),
            p50_s=p50_s,
            p95_s=p95_s,
            p99_s=p99_s,
            max_s=max_s,
            behind_s=behind_s,
        )


if __name__ == "__main__":
    sys.exit(main())
