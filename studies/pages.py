"""Puts the recorded figures into the pages of docs/: `python -m studies.pages`, after a study was recorded.

A table stands between `<!-- NAME -->` and `<!-- end -->`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from common.cli import EXIT_DONE, Parser, run_command
from studies import DOCS
from studies.bench import table as bench
from studies.bench.chart import draw
from studies.bench.figures import BenchRecord
from studies.capacity import memory, volumes
from studies.capacity.memory import MemoryRecord
from studies.capacity.volumes import VolumesRecord
from studies.gateway import table as gateway
from studies.gateway.figures import GatewayRecord
from studies.latency import figures as latency
from studies.latency.figures import LatencyRecord
from studies.page import filled
from studies.record import read, write_file
from studies.scale.records import DistributedSweep, EmbeddedSweep
from studies.scale.table import loads_markdown, points_markdown

T = TypeVar("T")


@dataclass(frozen=True)
class Place(Generic[T]):
    """A table in a page.

    Attributes:
        page: The page.
        name: The marker in it.
        recorded: The file of the figures.
        kind: The type of the record in that file.
        markdown: Makes the table.
    """

    page: Path
    name: str
    recorded: Path
    kind: type[T]
    markdown: Callable[[T], str]

    def filled_page(self) -> str:
        """The page with the table as recorded. Raises UsageError if it has no place for it."""
        return filled(self.page, self.name, self.markdown(read(self.recorded, self.kind)))


PERFORMANCE, CAPACITY, SCALING = DOCS / "performance.md", DOCS / "capacity.md", DOCS / "scaling.md"
GATEWAY = DOCS / "gateway-performance.md"
PLACES: tuple[Place[Any], ...] = (
    Place(PERFORMANCE, "bench", DOCS / "performance.json", BenchRecord, bench.markdown),
    Place(GATEWAY, "gateway", DOCS / "gateway.json", GatewayRecord, gateway.markdown),
    Place(SCALING, "points", DOCS / "scaling" / "points.json", EmbeddedSweep, points_markdown),
    Place(SCALING, "distributed", DOCS / "scaling" / "distributed.json", DistributedSweep, loads_markdown),
    Place(CAPACITY, "latency", DOCS / "capacity" / "latency.json", LatencyRecord, latency.markdown),
    Place(CAPACITY, "volumes", DOCS / "capacity" / "volumes.json", VolumesRecord, volumes.markdown),
    Place(CAPACITY, "memory", DOCS / "capacity" / "memory.json", MemoryRecord, memory.markdown),
)


def main() -> int:
    """Rewrites every page, and the chart of `make bench`."""
    parser = Parser("studies.pages", "Puts the recorded figures into the pages of docs/.")
    parser.parse_args()

    async def run() -> int:
        for place in PLACES:
            write_file(place.page, place.filled_page())
        draw(read(DOCS / "performance.json", BenchRecord), DOCS / "performance.json")
        return EXIT_DONE

    return run_command(parser.prog, run)


if __name__ == "__main__":
    sys.exit(main())
