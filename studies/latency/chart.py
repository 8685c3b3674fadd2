"""The hockey stick: latency against offered load, a panel for each batch size."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from studies.charts import save_chart

LINES = {"p50_s": "p50", "p95_s": "p95", "p99_s": "p99", "max_s": "longest"}


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Writes latency.png and latency.svg."""
    sizes = sorted({point["batch_size"] for point in results["points"]})
    figure = Figure(figsize=(5.5 * len(sizes), 4.5), layout="constrained")
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for panel, size in zip(panels, sizes, strict=True):
        points = [point for point in results["points"] if point["batch_size"] == size]
        loads = [point["offered_per_s"] for point in points]
        for name, label in LINES.items():
            panel.plot(loads, [1000 * point[name] for point in points], marker="o", markersize=3, label=label)
        saturation = results["saturation_per_s"][str(size)]
        panel.axvline(saturation, color="grey", linestyle="--", linewidth=1, label="saturation")
        panel.set_yscale("log")
        panel.set_xlim(left=0)
        panel.set_title(f"{size} a batch" if size > 1 else "one message a batch")
        panel.set_xlabel("offered load, messages/s")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda load, _: f"{load:,.0f}"))
        panel.tick_params(axis="x", labelrotation=30)
        panel.grid(visible=True, which="both", alpha=0.2)
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:,g}"))
    panels[0].set_ylabel("from due to settled, ms")
    panels[-1].legend(loc="upper left")
    return save_chart(figure, folder, "latency")
