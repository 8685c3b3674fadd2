"""The figures, as SVG and PNG: three of the sweep, log-log, and one of the sweep on servers.

The same points give the same files.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from studies.charts import save_chart
from studies.scale.load import LoadPoint
from studies.scale.point import EVERYONE, Point
from studies.scale.records import writing

COLOURS = {"smsim": "#0b6e99", "plain": "#c8553d"}
LABELS = {"smsim": "smsim, embedded", "plain": "a task per sender (plain asyncio)"}
IDEAL = {
    "color": "#888888",
    "linestyle": "--",
    "linewidth": 1.2,
    "label": "ideal: every sender at 1 / mean send time",
}
DURATIONS = {
    "1 min": 60.0,
    "15 min": 900.0,
    "1 h": 3_600.0,
    "1 day": 86_400.0,
    "1 month": 2_629_800.0,
    "1 year": 31_557_600.0,
    "10 years": 315_576_000.0,
}

PLAIN_NUMBERS = FuncFormatter(lambda value, _: f"{value:,.10g}")

Value = Callable[[Point], float | None]


def draw(points: Sequence[Point], folder: Path) -> list[Path]:
    """Draws what the points give into a folder; the paths written. Raises NotWritten."""
    return [
        path
        for name, figure in (
            ("throughput", _throughput(points)),
            ("per-sender", _per_sender(points)),
            ("everyone", _everyone(points)),
        )
        for path in _save(figure, folder, name)
    ]


def draw_loads(points: Sequence[LoadPoint], folder: Path) -> list[Path]:
    """Draws throughput against sender processes, a line for each batch size; the paths written. Raises NotWritten."""
    figure, axes = axes_of(
        "Throughput on RabbitMQ and Redis, publishing and sending at once",
        "sender processes",
        "messages per second",
    )
    processes = sorted({p.processes for p in points})
    for number, batch_size in enumerate(sorted({p.batch_size for p in points})):
        line = sorted((p.processes, p.rate_per_s) for p in points if p.batch_size == batch_size)
        label = f"batches of {batch_size:,}" if batch_size > 1 else "one message per AMQP message"
        axes.plot(*zip(*line, strict=True), marker="o", color=f"C{number}", label=label)
    axes.set(yscale="log")
    axes.yaxis.set_major_formatter(PLAIN_NUMBERS)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(processes, [f"{count:,}" for count in processes])
    figure.legend(frameon=False, loc="outside lower center", ncols=4)
    return _save(figure, folder, "distributed")


def axes_of(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, folder: Path, name: str) -> list[Path]:
    with writing(folder):
        return save_chart(figure, folder, name)


def _throughput(points: Sequence[Point]) -> Figure:
    figure, axes = _log_log("Overall throughput", "messages per second")
    _ideal(axes, points, lambda p: p.senders * (p.ideal_per_sender_per_s or 0) or None)
    _lines(axes, points, lambda p: p.rate_per_s, whole_run=True)
    _lines(axes, points, lambda p: p.steady_per_s)
    _legend(axes)
    return figure


def _per_sender(points: Sequence[Point]) -> Figure:
    figure, axes = _log_log("Throughput per sender", "messages per second and sender")
    _ideal(axes, points, lambda p: p.ideal_per_sender_per_s)
    _lines(axes, points, lambda p: p.rate_per_s / p.senders, whole_run=True)
    _lines(axes, points, lambda p: p.steady_per_sender_per_s)
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter(PLAIN_NUMBERS)
    _legend(axes, "lower left")
    return figure


def _everyone(points: Sequence[Point]) -> Figure:
    figure, axes = _log_log(
        f"Time to message everyone in the United States ({EVERYONE / 1e6:.0f} million)", "time"
    )
    _ideal(
        axes,
        points,
        lambda p: EVERYONE / p.senders / p.ideal_per_sender_per_s if p.ideal_per_sender_per_s else None,
    )
    _lines(axes, points, lambda p: p.everyone_s)
    axes.set_yticks(list(DURATIONS.values()), list(DURATIONS))
    axes.set_yticks([], minor=True)
    _legend(axes)
    return figure


def _log_log(title: str, y: str) -> tuple[Figure, Axes]:
    figure, axes = axes_of(title, "senders (sends in flight at most)", y)
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PLAIN_NUMBERS)
    axes.xaxis.set_minor_formatter(NullFormatter())
    return figure, axes


def _legend(axes: Axes, place: Literal["best", "lower left"] = "best") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc=place)


def _lines(axes: Axes, points: Sequence[Point], value: Value, whole_run: bool = False) -> None:
    """A line for each version: the steady phase, or thin and dotted the whole run."""
    for version, colour in COLOURS.items():
        x, y = _series([p for p in points if p.version == version], value)
        if not x:
            continue
        if whole_run:
            label = f"{LABELS[version]}, ramp and tail included"
            axes.plot(x, y, color=colour, linestyle=":", linewidth=1.2, label=label)
        else:
            axes.plot(x, y, color=colour, marker="o", markersize=4, label=LABELS[version])


def _ideal(axes: Axes, points: Sequence[Point], value: Value) -> None:
    x, y = _series([p for p in points if p.version == "smsim"], value)
    if x:
        axes.plot(x, y, **IDEAL)  # type: ignore[arg-type]


def _series(points: Sequence[Point], value: Value) -> tuple[list[int], list[float]]:
    """Senders and values, ascending, of the points that have one."""
    found = sorted((p.senders, y) for p in points if (y := value(p)) is not None)
    return [x for x, _ in found], [y for _, y in found]
