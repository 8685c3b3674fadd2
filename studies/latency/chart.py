"""The hockey stick: latency against offered load, a panel for each batch size."""

from pathlib import Path

from matplotlib.axes import Axes

from studies.charts import REFERENCE, THOUSANDS, chart
from studies.latency.figures import LatencyRecord

LINES = {"p50_s": "p50", "p95_s": "p95", "p99_s": "p99", "max_s": "longest"}


def draw(record: LatencyRecord, folder: Path) -> None:
    """Writes latency.png and latency.svg. Raises NotWritten."""
    sizes = sorted(record.saturation_per_s)
    size = (5.5 * len(sizes), 4.5)
    with chart(folder, "latency", size=size, panels=(1, len(sizes)), sharey=True) as (_, panels, _):
        for panel, batch_size in zip(panels, sizes, strict=True):
            _draw_loads(panel, record, batch_size)
        panels[0].yaxis.set_major_formatter(THOUSANDS)
        panels[0].set_ylabel("from due to settled, ms")
        panels[-1].legend(loc="upper left")


def _draw_loads(panel: Axes, record: LatencyRecord, batch_size: int) -> None:
    points = [point for point in record.points if point.batch_size == batch_size]
    loads = [point.offered_per_s for point in points]
    for name, label in LINES.items():
        panel.plot(loads, [1000 * getattr(point, name) for point in points], marker="o", label=label)
    saturation = record.saturation_per_s[batch_size]
    panel.axvline(saturation, color=REFERENCE, linestyle="--", linewidth=1, label="saturation")
    panel.set(
        title=f"{batch_size} a batch" if batch_size > 1 else "one message a batch",
        xlabel="offered load, messages/s",
        yscale="log",
    )
    panel.set_xlim(left=0)
    panel.xaxis.set_major_formatter(THOUSANDS)
    panel.tick_params(axis="x", labelrotation=30)
