"""The counters of a run, and of all runs: the one list of them.

Everything that names the counters is made from `Counters`: the ledger's snapshot and its tallies, the Lua scripts, the
statistics and their JSON, the OpenAPI schemas, the Prometheus metrics, the audit, the terminal view and the dashboard.
To add a counter, add a field here, and count it in the ledgers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Self, get_type_hints

import msgspec
from msgspec import Meta


class Kind(StrEnum):
    """How a counter changes."""

    TOTAL = "total"  # only grows
    OUTCOME = "outcome"  # only grows; one of the final states of a message
    LEVEL = "level"  # grows and shrinks


@dataclass(frozen=True, slots=True)
class Counter:
    """What is known of one counter.

    Attributes:
        name: The field of `Counters`, of a Redis hash and of the JSON.
        label: What people see: in the terminal view and on the dashboard.
        help: What it counts, for the OpenAPI document and Prometheus.
        kind: How it changes.
        unit: What is counted.
        recounted: Whether an audit can count it again from the states of the messages.
    """

    name: str
    label: str
    help: str
    kind: Kind
    unit: str
    recounted: bool

    @property
    def metric(self) -> str:
        """The name of its Prometheus metric. The final states share one, with the label `outcome`."""
        name = "settled" if self.kind is Kind.OUTCOME else self.name
        return f"smsim_{self.unit}_{name}"


def counter(
    label: str, help: str, kind: Kind = Kind.TOTAL, unit: str = "messages", recounted: bool = False
) -> Meta:
    """Describes a field of `Counters`; see `Counter`."""
    about = {"label": label, "kind": kind, "unit": unit, "recounted": recounted}
    return Meta(ge=0, description=help, extra=about)


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """The counters. At every moment published = queued + sending + sent + failed, where queued is derived."""

    published: Annotated[
        int, counter("Published", "messages announced to the ledger so far", recounted=True)
    ] = 0
    sending: Annotated[
        int, counter("Sending", "messages that are being sent", Kind.LEVEL, recounted=True)
    ] = 0
    sent: Annotated[int, counter("Sent", "messages that were sent", Kind.OUTCOME, recounted=True)] = 0
    failed: Annotated[int, counter("Failed", "messages that failed", Kind.OUTCOME, recounted=True)] = 0
    canceled: Annotated[
        int, counter("Canceled", "messages that were canceled before they were sent; counted in failed, too")
    ] = 0
    retried: Annotated[int, counter("Retried", "attempts that failed and were followed by another")] = 0
    ambiguous: Annotated[int, counter("Ambiguous", "an upper bound of the messages that were sent twice")] = 0
    rejected: Annotated[
        int, counter("Rejected", "bodies that were no batch; of all runs only", unit="bodies")
    ] = 0

    @property
    def settled(self) -> int:
        """Messages in a final state."""
        return self.sent + self.failed


class Tally(Counters, frozen=True, kw_only=True):
    """What a ledger adds up.

    Attributes:
        total_time_us: The time that the sends of all settled messages took, in microseconds.
    """

    total_time_us: int = 0

    def __add__(self, change: Self) -> Self:
        """The sum of each field."""
        sums = {name: getattr(self, name) + getattr(change, name) for name in self.__struct_fields__}
        return type(self)(**sums)


def _counters() -> Iterator[Counter]:
    for name, hint in get_type_hints(Counters, include_extras=True).items():
        (meta,) = hint.__metadata__
        yield Counter(name, help=meta.description, **meta.extra)


COUNTERS = tuple(_counters())
TALLIED = Tally.__struct_fields__
"""The names of all that a ledger adds up: `COUNTERS`, and the total time."""
RECOUNTED = tuple(counter.name for counter in COUNTERS if counter.recounted)
"""The counters that an audit compares with the states of the messages."""
