"""The figures as a chart: messages per second of ours and of each peer, on a logarithmic scale, as SVG."""

from pathlib import Path

from matplotlib.axes import Axes

from studies.bench.figures import BOTH, CONSUME, OURS, PUBLISH, BenchRecord
from studies.bench.peers.catalogue import C_CLIENT
from studies.bench.table import Compared, compared
from studies.charts import chart

# Light for the works that matter less; ours in colour, peers in grey.
SHADES = {PUBLISH: ("#f6c9a5", "#d9dee3"), CONSUME: ("#ee9b5b", "#aab4be"), BOTH: ("#d9620f", "#66727e")}
LABELS = {C_CLIENT: "C client\n(no counters)"}


def draw(record: BenchRecord, beside: Path) -> None:
    """Writes the chart beside a file, as SVG. The fastest at both at once comes first. Raises NotWritten."""
    rows = compared(record)
    if not rows:
        return
    with chart(beside.parent, beside.stem, size=(9.0, 5.6), kinds=["svg"]) as (_, (axes,), _):
        # The legend shows the shades of a peer, or ours if no peer was measured.
        labelled = next((row for row in rows if row.who != OURS), rows[0])
        for place, row in enumerate(rows):
            _draw_bars(axes, place, row, labelled=row is labelled)
        axes.set_yticks(range(len(rows)), [LABELS.get(row.who, row.who) for row in rows])
        for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_fontweight("bold" if row.who == OURS else "normal")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xscale="log", xlabel="messages per second, logarithmic; one message per AMQP message")
        axes.set_xlim(left=100)
        axes.legend(loc="lower right")


def _draw_bars(axes: Axes, place: int, row: Compared, *, labelled: bool) -> None:
    for offset, work in zip((-0.27, 0.0, 0.27), SHADES, strict=True):
        rate = row.works[work].rate_per_s
        label = work if labelled else None
        axes.barh(place + offset, rate, 0.25, color=_shade(row, work), label=label)
        axes.text(rate * 1.03, place + offset, f"{rate:,}", va="center", fontsize=7)


def _shade(row: Compared, work: str) -> str:
    ours, peer = SHADES[work]
    return ours if row.who == OURS else peer
