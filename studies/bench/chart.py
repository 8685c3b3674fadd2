"""The figures as a chart: messages per second of ours and of each peer, on a logarithmic scale, as SVG."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from studies.bench.figures import BOTH, CONSUME, PUBLISH, US
from studies.bench.peers.catalogue import C_CLIENT
from studies.bench.table import compared
from studies.charts import save_chart

# The lightest for the work that matters least; ours in a colour, peers in greys.
SHADES = {
    PUBLISH: {"ours": "#f6c9a5", "peer": "#d9dee3"},
    CONSUME: {"ours": "#ee9b5b", "peer": "#aab4be"},
    BOTH: {"ours": "#d9620f", "peer": "#66727e"},
}
INCHES = (9.0, 5.6)
BAR = 0.27
# Where a logarithmic axis begins is arbitrary: a round number below all figures.
LEAST = 100
LABELS = {C_CLIENT: "C client\n(no counters)"}
# Text stays text.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
}


def draw(results: dict[str, Any], file: Path) -> None:
    """Writes the chart, an SVG file; the fastest at both at once comes first. Raises OSError."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=INCHES, layout="constrained")
        axes = figure.subplots()
        by_who = compared(results)
        order = sorted(by_who, key=lambda who: -by_who[who][BOTH]["rate_per_s"])
        for row, who in enumerate(order):
            for place, work in enumerate((PUBLISH, CONSUME, BOTH)):
                rate = by_who[who][work]["rate_per_s"]
                shade = SHADES[work]["ours" if who == US else "peer"]
                label = work if row == order_of_a_peer(order) else None
                axes.barh(row + (place - 1) * BAR, rate, BAR * 0.92, color=shade, label=label)
                axes.text(rate * 1.03, row + (place - 1) * BAR, f"{rate:,}", va="center", fontsize=7)
        axes.set_yticks(range(len(order)), [LABELS.get(who, who) for who in order])
        for tick, who in zip(axes.get_yticklabels(), order, strict=True):
            tick.set_fontweight("bold" if who == US else "normal")
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlim(left=LEAST)
        axes.set_xlabel("messages per second, logarithmic; one message per AMQP message")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.legend(loc="lower right", frameon=False)
        save_chart(figure, file.parent, file.stem, ("svg",))


def order_of_a_peer(order: list[str]) -> int:
    """The row whose shades the legend shows: that of the first peer, or of ours if there is none."""
    return next((row for row, who in enumerate(order) if who != US), 0)
