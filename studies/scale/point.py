"""A point of the sweep: what is measured of so many senders, and what follows from that."""

from typing import Literal

import msgspec

Version = Literal["smsim", "plain"]

# What "everyone in the United States" means here.
EVERYONE = 340_000_000


class Parameters(msgspec.Struct, frozen=True):
    """What is the same for all points of a study. Sends fail with the probability `failure_rate`."""

    messages_per_sender: int
    mean_s: float
    stddev_s: float
    failure_rate: float
    seed: int | None = None


class Task(msgspec.Struct, frozen=True):
    """One point to measure: the pipeline's (`smsim`), or that of a task per sender (`plain`)."""

    version: Version
    senders: int
    parameters: Parameters

    @property
    def messages(self) -> int:
        """How many messages go through it."""
        return self.senders * self.parameters.messages_per_sender

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.version}, {self.senders:,} senders"


class Point(msgspec.Struct, frozen=True):
    """One point, measured. Without a steady phase `steady_per_s` is None, and so is what would follow from it.

    `peak_rss_bytes` is the most memory that the process had, `base_rss_bytes` the most that it had in a run of 100
    senders before that.
    `peak_in_flight` is the most messages that were claimed and not settled at once: under overload fewer than senders.
    """

    version: Version
    senders: int
    messages: int
    sent: int
    failed: int
    elapsed_s: float
    steady_per_s: float | None
    cpu_s: float
    peak_in_flight: int
    base_rss_bytes: int
    peak_rss_bytes: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    ideal_per_sender_per_s: float | None

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from the other points of a study."""
        return self.version, self.senders

    @property
    def adds_up(self) -> bool:
        """Whether as many were sent and failed as were published."""
        return self.sent + self.failed == self.messages

    @property
    def rate_per_s(self) -> float:
        """Messages per second over the whole run, its ramp and its tail included."""
        return self.messages / self.elapsed_s

    @property
    def steady_per_sender_per_s(self) -> float | None:
        """Messages per second of each sender in the steady phase."""
        return None if self.steady_per_s is None else self.steady_per_s / self.senders

    @property
    def bytes_per_send(self) -> float:
        """What the run took beyond one of 100 senders, for each send in flight."""
        return (self.peak_rss_bytes - self.base_rss_bytes) / min(self.peak_in_flight, self.senders)

    @property
    def everyone_s(self) -> float | None:
        """How long 340 million messages would take: this run, going on at its steady rate until they are settled."""
        if self.steady_per_s is None:
            return None
        return self.elapsed_s + (EVERYONE - self.messages) / self.steady_per_s

    def columns(self) -> dict[str, object]:
        """A row of the CSV file: what was measured, then what follows from it."""
        return msgspec.structs.asdict(self) | {
            "rate_per_s": self.rate_per_s,
            "rate_per_sender_per_s": self.rate_per_s / self.senders,
            "steady_per_sender_per_s": self.steady_per_sender_per_s,
            "bytes_per_send": self.bytes_per_send,
            "everyone_s": self.everyone_s,
        }
