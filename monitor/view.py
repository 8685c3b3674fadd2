"""The statistics as a picture for a terminal."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.cli import printable
from common.counters import COUNTERS
from common.ledger.values import Snapshot
from common.statistics import Statistics, statistics

SENDERS_SHOWN = 10
COLUMNS = 3


def picture(now: Snapshot, before: Snapshot | None, title: str) -> RenderableType:
    """One screen: a bar, the counters, the times, and each sender's share."""
    stats = statistics(now, before)
    total = max(now.total, now.published, 1)
    # The padding ends the bar's line, which the bar itself does not.
    bar = Padding(ProgressBar(total=total, completed=now.settled), 0)
    parts: list[RenderableType] = [bar, _table(stats)]
    if now.senders:
        parts.append(_senders(now))
    return Panel(Group(*parts), title=title, width=78)


def _table(stats: Statistics) -> Table:
    """The counters, then the rest, column by column."""
    cells = [(counter.label.lower(), f"{getattr(stats, counter.name):,}") for counter in COUNTERS]
    cells += [
        ("queued", f"{stats.queued:,}"),
        ("rate", f"{stats.rate_per_s:,.0f}/s"),
        ("senders", f"{stats.senders}"),
        ("p50", _seconds(stats.p50_s)),
        ("p95", _seconds(stats.p95_s)),
        ("p99", _seconds(stats.p99_s)),
        ("elapsed", _seconds(stats.elapsed_s)),
        ("ETA", _seconds(stats.eta_s)),
    ]
    rows = -(-len(cells) // COLUMNS)
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in range(COLUMNS):
        table.add_column(style="dim")
        table.add_column(justify="right")
    for row in range(rows):
        table.add_row(*(text for cell in cells[row::rows] for text in cell))
    return table


def _senders(now: Snapshot) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="dim")
    for _ in range(2):
        table.add_column(justify="right")
    shares = sorted(now.senders.items(), key=lambda item: -item[1].sent - item[1].failed)
    for name, status in shares[:SENDERS_SHOWN]:
        table.add_row(
            Text(printable(name)),
            f"{status.sent + status.failed:,} settled",
            f"{status.in_flight:,} in flight",
        )
    if len(shares) > SENDERS_SHOWN:
        table.add_row(f"and {len(shares) - SENDERS_SHOWN} more", "", "")
    return table


def _seconds(time_s: float | None) -> str:
    if time_s is None:
        return "-"
    return f"{time_s:,.0f} s" if time_s >= 100 else f"{time_s:.3g} s"
