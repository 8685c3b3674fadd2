"""A study that nobody measured: points, and records of them."""

from pathlib import Path
from typing import Any

import msgspec

from studies.scale.point import Parameters, Point
from studies.scale.records import Records

PARAMETERS = Parameters(messages_per_sender=10, mean_s=1.0, stddev_s=0.1, failure_rate=0.1)
CONDITIONS: dict[str, Any] = {
    "machine": {"cores": 2, "memory_gb": 16.0, "cpu": "a CPU", "system": "an OS"},
    "versions": {"python": "3.11.7"},
    "parameters": msgspec.to_builtins(PARAMETERS),
}


def point(senders: int, **other: Any) -> Point:
    """A point at nine tenths of its ideal, of so many senders."""
    messages = 10 * senders
    values: dict[str, Any] = {
        "version": "smsim",
        "senders": senders,
        "messages": messages,
        "sent": messages - senders,
        "failed": senders,
        "elapsed_s": 12.0,
        "steady_per_s": 0.9 * senders,
        "cpu_s": 1.5,
        "peak_in_flight": senders,
        "base_rss_bytes": 70_000_000,
        "peak_rss_bytes": 70_000_000 + 200 * senders,
        "p50_s": 1.0,
        "p95_s": 1.16,
        "p99_s": 1.23,
        "ideal_per_sender_per_s": 1.0,
    }
    return Point(**(values | other))


def records_in(folder: Path, fresh: bool = False, **parameters: Any) -> Records[Point]:
    """The records of a study with these parameters, others than those above."""
    now = {**CONDITIONS, "parameters": CONDITIONS["parameters"] | parameters}
    return Records(folder, "points", Point, now, fresh)
