"""The points of both sweeps as markdown tables."""

from collections.abc import Callable
from dataclasses import dataclass

from studies.page import Column, table
from studies.scale.points import LoadPoint, Point
from studies.scale.records import DistributedSweep, EmbeddedSweep

UNITS = (("years", 31_557_600), ("days", 86_400), ("h", 3_600), ("min", 60))


@dataclass(frozen=True)
class Pair:
    """The points of both versions at one number of senders."""

    senders: int
    smsim: Point | None
    plain: Point | None


def points_markdown(sweep: EmbeddedSweep) -> str:
    """The table of an embedded sweep, and how it was measured."""
    points = {(point.version, point.senders): point for point in sweep.points}
    pairs = [
        Pair(senders, points.get(("smsim", senders)), points.get(("plain", senders)))
        for senders in sorted({point.senders for point in sweep.points})
    ]
    return f"{table(POINT_COLUMNS, pairs)}\n\n{sweep.conditions}"


def loads_markdown(sweep: DistributedSweep) -> str:
    """The table of a sweep on servers, and how it was measured."""
    points = sorted(sweep.points, key=lambda point: (point.batch_size, point.processes))
    return f"{table(LOAD_COLUMNS, points)}\n\n{sweep.conditions}"


def _rate(point: Point) -> str:
    steady = point.steady_per_s
    return "" if steady is None else f"{steady:,.0f}" if steady >= 100 else f"{steady:.3g}"


def _of_ideal(point: Point) -> str:
    per_sender, ideal = point.steady_per_sender_per_s, point.ideal_per_sender_per_s
    return f"{100 * per_sender / ideal:.1f} %" if per_sender and ideal else ""


def _has_many_senders(point: Point) -> bool:
    """With fewer, CPU time and memory are mostly those that any process needs."""
    return point.senders >= 10_000


def _cpu(point: Point) -> str:
    return f"{point.cpu_s / point.messages * 1e6:,.1f}" if _has_many_senders(point) else ""


def _memory(point: Point) -> str:
    return f"{point.peak_rss_bytes / 1e6:,.0f}"


def _bytes_per_send(point: Point) -> str:
    return f"{point.bytes_per_send:,.0f}" if _has_many_senders(point) else ""


def _everyone(point: Point) -> str:
    seconds = point.everyone_s
    if seconds is None:
        return ""
    unit, length = next((one for one in UNITS if seconds >= one[1]), ("s", 1))
    return f"{seconds / length:.3g} {unit}"


def _ours(heading: str, cell: Callable[[Point], str]) -> Column[Pair]:
    return Column(heading, lambda pair: cell(pair.smsim) if pair.smsim else "")


def _plain(heading: str, cell: Callable[[Point], str]) -> Column[Pair]:
    return Column(heading, lambda pair: cell(pair.plain) if pair.plain else "")


POINT_COLUMNS = (
    Column[Pair]("senders", lambda pair: f"{pair.senders:,}"),
    _ours("smsim: messages/s", _rate),
    _ours("of ideal", _of_ideal),
    _ours("CPU s per million", _cpu),
    _ours("MB", _memory),
    _ours("bytes a send", _bytes_per_send),
    _ours("340 million take", _everyone),
    _plain("plain: messages/s", _rate),
    _plain("of ideal", _of_ideal),
    _plain("CPU s per million", _cpu),
    _plain("MB", _memory),
    _plain("340 million take", _everyone),
)
LOAD_COLUMNS = (
    Column[LoadPoint]("sender processes", lambda p: str(p.processes)),
    Column[LoadPoint]("batch", lambda p: f"{p.batch_size:,}"),
    Column[LoadPoint]("messages", lambda p: f"{p.messages:,}"),
    Column[LoadPoint]("messages/s", lambda p: f"**{p.rate_per_s:,.0f}**"),
    Column[LoadPoint]("CPU s per million: producer", lambda p: f"{p.producer_cpu_s / p.messages * 1e6:.1f}"),
    Column[LoadPoint]("senders", lambda p: f"{p.senders_cpu_s / p.messages * 1e6:.1f}"),
    Column[LoadPoint]("peak MB of a sender", lambda p: f"{p.peak_sender_rss_bytes / 1e6:,.0f}"),
)
