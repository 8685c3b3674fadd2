"""The charts of both sweeps, as SVG and PNG. The same points give the same files."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from studies.charts import OURS, PEER, REFERENCE, THOUSANDS, chart
from studies.scale.points import EVERYONE, LoadPoint, Point

COLOURS = {"smsim": OURS, "plain": PEER}
LABELS = {"smsim": "smsim, embedded", "plain": "a task per sender (plain asyncio)"}
DURATIONS = {
    "1 min": 60.0,
    "15 min": 900.0,
    "1 h": 3_600.0,
    "1 day": 86_400.0,
    "1 month": 2_629_800.0,
    "1 year": 31_557_600.0,
    "10 years": 315_576_000.0,
}

Value = Callable[[Point], float | None]


def draw(points: Sequence[Point], folder: Path) -> list[Path]:
    """Draws the embedded sweep. Returns the paths. Raises NotWritten."""
    return [*_throughput(points, folder), *_per_sender(points, folder), *_everyone(points, folder)]


def draw_loads(points: Sequence[LoadPoint], folder: Path) -> list[Path]:
    """Draws the sweep on servers, a line for each batch size. Returns the paths. Raises NotWritten."""
    with chart(folder, "distributed") as (figure, (axes,), paths):
        axes.set_title("Throughput on RabbitMQ and Redis, publishing and sending at once")
        processes = sorted({p.processes for p in points})
        for number, batch_size in enumerate(sorted({p.batch_size for p in points})):
            line = sorted((p.processes, p.rate_per_s) for p in points if p.batch_size == batch_size)
            label = f"batches of {batch_size:,}" if batch_size > 1 else "one message per AMQP message"
            axes.plot(*zip(*line, strict=True), marker="o", color=f"C{number}", label=label)
        axes.set(xlabel="sender processes", ylabel="messages per second", yscale="log")
        axes.yaxis.set_major_formatter(THOUSANDS)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(processes, [f"{count:,}" for count in processes])
        figure.legend(loc="outside lower center", ncols=4)
    return paths


def _throughput(points: Sequence[Point], folder: Path) -> list[Path]:
    with chart(folder, "throughput") as (_, (axes,), paths):
        _log_log(axes, "Overall throughput", "messages per second")
        _draw_ideal(axes, points, lambda p: p.senders * (p.ideal_per_sender_per_s or 0) or None)
        _draw(axes, points, lambda p: p.rate_per_s, whole_run=True)
        _draw(axes, points, lambda p: p.steady_per_s)
    return paths


def _per_sender(points: Sequence[Point], folder: Path) -> list[Path]:
    with chart(folder, "per-sender") as (_, (axes,), paths):
        _log_log(axes, "Throughput per sender", "messages per second and sender")
        _draw_ideal(axes, points, lambda p: p.ideal_per_sender_per_s)
        _draw(axes, points, lambda p: p.rate_per_s / p.senders, whole_run=True)
        _draw(axes, points, lambda p: p.steady_per_sender_per_s)
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter(THOUSANDS)
    return paths


def _everyone(points: Sequence[Point], folder: Path) -> list[Path]:
    with chart(folder, "everyone") as (_, (axes,), paths):
        title = f"Time to message everyone in the United States ({EVERYONE / 1e6:.0f} million)"
        _log_log(axes, title, "time")
        _draw_ideal(axes, points, _ideal_everyone_s)
        _draw(axes, points, lambda p: p.everyone_s)
        axes.set_yticks(list(DURATIONS.values()), list(DURATIONS))
        axes.set_yticks([], minor=True)
    return paths


def _ideal_everyone_s(point: Point) -> float | None:
    ideal = point.ideal_per_sender_per_s
    return EVERYONE / point.senders / ideal if ideal else None


def _log_log(axes: Axes, title: str, y: str) -> None:
    axes.set(title=title, xlabel="senders (sends in flight at most)", ylabel=y, xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(THOUSANDS)
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw(axes: Axes, points: Sequence[Point], value: Value, *, whole_run: bool = False) -> None:
    """A line for each version: the steady phase, or thin and dotted the whole run."""
    for version, colour in COLOURS.items():
        x, y = _series(points, version, value)
        if x and whole_run:
            label = f"{LABELS[version]}, ramp and tail included"
            axes.plot(x, y, color=colour, linestyle=":", linewidth=1.2, label=label)
        elif x:
            axes.plot(x, y, color=colour, marker="o", label=LABELS[version])
    if axes.lines:
        axes.legend()


def _draw_ideal(axes: Axes, points: Sequence[Point], value: Value) -> None:
    x, y = _series(points, "smsim", value)
    if x:
        label = "ideal: every sender at 1 / mean send time"
        axes.plot(x, y, color=REFERENCE, linestyle="--", linewidth=1.2, label=label)


def _series(points: Sequence[Point], version: str, value: Value) -> tuple[list[int], list[float]]:
    """Senders and values of the points of a version that have a value, ascending."""
    found = sorted((p.senders, y) for p in points if p.version == version and (y := value(p)) is not None)
    return [x for x, _ in found], [y for _, y in found]
