"""A study's CSV file as a markdown table: `python -m studies.scale.table FILE.csv [--write PAGE.md]`.

In a page it goes between the lines `<!-- table: NAME.csv -->` and `<!-- end of table -->`.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common.cli import EXIT_DONE, Parser, run_command
from common.errors import UsageError
from studies.scale.load import LoadPoint
from studies.scale.point import Point
from studies.scale.records import read_conditions, read_rows, replace_file, writing

POINT_COLUMNS = (
    *(
        "senders",
        "smsim: messages/s",
        "of ideal",
        "CPU s per million",
        "MB",
        "bytes a send",
        "340 million take",
    ),
    *("plain: messages/s", "of ideal", "CPU s per million", "MB", "340 million take"),
)
LOAD_COLUMNS = (
    *("sender processes", "batch", "messages", "messages/s", "CPU s per million: producer", "senders"),
    "peak MB of a sender",
)
UNITS = (("years", 31_557_600), ("days", 86_400), ("h", 3_600), ("min", 60))
# Below so many senders, what the process needs anyway is most of its CPU time and memory.
FEW_SENDERS = 10_000


def main(argv: list[str] | None = None) -> int:
    """Prints the table of a CSV file, or writes it into a page."""
    parser = Parser("studies.scale.table", "Makes a markdown table of a study's CSV file.")
    parser.add_argument("csv", type=Path, metavar="FILE.csv", help="points.csv or distributed.csv")
    parser.add_argument("--write", type=Path, metavar="PAGE.md", help="the page that the table stands in")
    args = parser.parse_args(argv)

    async def run() -> int:
        table = markdown(args.csv)
        if args.write is None:
            sys.stdout.write(table + "\n")
        else:
            write_into(args.write, args.csv.name, table)
        return EXIT_DONE

    return run_command(parser.prog, run)


def markdown(path: Path) -> str:
    """The table, and a line on how it was measured. Raises UsageError if the file is none of a study's."""
    if path.name == "points.csv":
        header: Sequence[str] = POINT_COLUMNS
        rows = _point_rows(read_rows(path, Point))
    elif path.name == "distributed.csv":
        header, rows = LOAD_COLUMNS, _load_rows(read_rows(path, LoadPoint))
    else:
        raise UsageError(f"{path}: points.csv and distributed.csv are what there are tables of")
    lines = [header, ["---:"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_how(read_conditions(path))}"


def write_into(page: Path, name: str, table: str) -> None:
    """Puts a table between its markers. Raises UsageError if the page has no such markers, or NotWritten."""
    begin, end = f"<!-- table: {name} -->", "<!-- end of table -->"
    try:
        text = page.read_text()
    except OSError as error:
        raise UsageError(f"{page}: {error.strerror}") from None
    pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    if not pattern.search(text):
        raise UsageError(f"{page} has no lines {begin} and {end}")
    with writing(page):
        replace_file(page, pattern.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text, count=1))


def _point_rows(points: Iterable[Point]) -> list[list[str]]:
    """A row for each number of senders, the two versions side by side."""
    by_senders: dict[int, dict[str, Point]] = {}
    for point in points:
        by_senders.setdefault(point.senders, {})[point.version] = point
    rows = []
    for senders, both in sorted(by_senders.items()):
        smsim, plain = both.get("smsim"), both.get("plain")
        cells = _cells(smsim)
        cells.insert(4, _bytes_per_send(smsim))
        rows.append([f"{senders:,}", *cells, *_cells(plain)])
    return rows


def _cells(point: Point | None) -> list[str]:
    """Rate, share of the ideal, CPU time, memory, time for everyone."""
    if point is None:
        return [""] * 5
    steady, per_sender, ideal = (
        point.steady_per_s,
        point.steady_per_sender_per_s,
        point.ideal_per_sender_per_s,
    )
    return [
        "" if steady is None else f"{steady:,.0f}" if steady >= 100 else f"{steady:.3g}",
        f"{100 * per_sender / ideal:.1f} %" if per_sender and ideal else "",
        f"{point.cpu_s / point.messages * 1e6:,.1f}" if point.senders >= FEW_SENDERS else "",
        f"{point.peak_rss_bytes / 1e6:,.0f}",
        _duration(point.everyone_s),
    ]


def _bytes_per_send(point: Point | None) -> str:
    return f"{point.bytes_per_send:,.0f}" if point and point.senders >= FEW_SENDERS else ""


def _load_rows(points: Iterable[LoadPoint]) -> list[list[str]]:
    return [
        [
            str(p.processes),
            f"{p.batch_size:,}",
            f"{p.messages:,}",
            f"**{p.rate_per_s:,.0f}**",
            f"{p.producer_cpu_s / p.messages * 1e6:.1f}",
            f"{p.senders_cpu_s / p.messages * 1e6:.1f}",
            f"{p.peak_sender_rss_bytes / 1e6:,.0f}",
        ]
        for p in sorted(points, key=lambda p: (p.batch_size, p.processes))
    ]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    unit, length = next((one for one in UNITS if seconds >= one[1]), ("s", 1))
    return f"{seconds / length:.3g} {unit}"


def _how(conditions: dict[str, Any]) -> str:
    machine, parameters = conditions["machine"], conditions["parameters"]
    packages = ", ".join(f"{name} {number}" for name, number in conditions["versions"].items())
    if "messages_per_sender" in parameters:
        load = f"{parameters['messages_per_sender']} messages a sender"
    else:
        load = f"{parameters['slots']:,} slots a sender, {parameters['queue_type']} queues"
    first, last = conditions["measured_at"], conditions.get("measured_until")
    date = first if last in (None, first) else f"{first} to {last}"
    return (
        f"Measured {date} on {machine['cores']} cores ({machine['cpu']}),"
        f" {machine['memory_gb']:g} GB, {machine['system']}; {packages}. {load}; sends of {parameters['mean_s']:g} s"
        f" ± {parameters['stddev_s']:g} s, of which {100 * parameters['failure_rate']:g} % fail."
    )


if __name__ == "__main__":
    sys.exit(main())
