"""The figures of latency against load."""

from collections.abc import Sequence
from statistics import median

import msgspec
import numpy as np

from studies.latency.noting import Seconds
from studies.page import Column, duration, table
from studies.record import Record


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One load.

    Attributes:
        batch_size: Messages a batch.
        share, offered_per_s: The load, as a share of the saturation and in messages a second.
        messages: How many messages count.
        settled_per_s: Messages settled a second.
        p50_s, p95_s, p99_s, max_s: Percentiles of the latencies, and the longest.
        behind_s: How late the producer published its latest message.
    """

    batch_size: int
    share: float
    offered_per_s: float
    messages: int
    settled_per_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float
    behind_s: float


class LatencyRecord(Record, frozen=True, kw_only=True):
    """The results of `make latency`.

    Attributes:
        seconds, warm_up_s: How long each load lasted, and the part of it that does not count.
        rounds: How many rounds the medians are over.
        sender_concurrency: Slots of the sender.
        saturation_per_s: Messages a second as fast as possible, by batch size.
        points: The loads.
    """

    seconds: float
    warm_up_s: float
    rounds: int
    sender_concurrency: int
    saturation_per_s: dict[int, int]
    points: list[Point]


def percentiles(waits_s: Seconds, *shares: float, digits: int) -> list[float]:
    """Percentiles, rounded."""
    return [round(float(value), digits) for value in np.percentile(waits_s, shares)]


def median_point(rounds: Sequence[Point]) -> Point:
    """The medians of the same load over rounds."""
    names = ("settled_per_s", "p50_s", "p95_s", "p99_s", "max_s", "behind_s")
    medians = {name: median(getattr(one, name) for one in rounds) for name in names}
    return msgspec.structs.replace(rounds[0], **medians)


def markdown(record: LatencyRecord) -> str:
    """The saturation, and a row for each load."""
    saturation = (
        f"{rate:,} messages/s in batches of {size}" for size, rate in record.saturation_per_s.items()
    )
    return f"Saturation: {', '.join(saturation)}.\n\n{table(LOADS, record.points)}\n\n{record.conditions}"


LOADS = (
    Column[Point]("batch", lambda point: str(point.batch_size)),
    Column[Point]("load, messages/s", lambda point: f"{point.offered_per_s:,.0f}"),
    Column[Point]("share of saturation", lambda point: f"{point.share:.0%}"),
    Column[Point]("settled/s", lambda point: f"{point.settled_per_s:,.0f}"),
    Column[Point]("p50", lambda point: duration(point.p50_s, 2)),
    Column[Point]("p95", lambda point: duration(point.p95_s, 2)),
    Column[Point]("p99", lambda point: duration(point.p99_s, 2)),
    Column[Point]("longest", lambda point: duration(point.max_s, 2)),
    Column[Point]("messages", lambda point: f"{point.messages:,}"),
)
