"""The one chart style."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from studies.record import not_written

OURS, PEER, REFERENCE = "#0b6e99", "#c8553d", "#888888"
THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.10g}")
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "svg.fonttype": "none",
}


@contextmanager
def chart(
    folder: Path,
    name: str,
    *,
    size: tuple[float, float] = (7.5, 4.8),
    panels: tuple[int, int] = (1, 1),
    kinds: Sequence[str] = ("png", "svg"),
    **layout: Any,
) -> Iterator[tuple[Figure, list[Axes], list[Path]]]:
    """A figure to draw into; on leaving, it is written as `name`.png and `name`.svg, the same bytes for the same chart.

    Yields the figure, its panels row by row, and the paths. Raises NotWritten.
    """
    paths = [folder / f"{name}.{kind}" for kind in kinds]
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size)
        axes = figure.subplots(*panels, squeeze=False, **layout)
        yield figure, list(axes.flat), paths
        try:
            for path in paths:
                # Otherwise an SVG holds the date, and the version of Matplotlib.
                metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
                figure.savefig(path, dpi=150, metadata=metadata)
        except OSError as error:
            raise not_written(error, folder) from None
