"""The points of both sweeps, to be measured and measured, and the figures derived from them."""

from typing import Literal

import msgspec

Version = Literal["smsim", "plain"]

# "Everyone in the United States".
EVERYONE = 340_000_000


class Sends(msgspec.Struct, frozen=True, kw_only=True):
    """How sends behave in a sweep.

    Attributes:
        mean_s, stddev_s: Mean send time and its standard deviation.
        failure_rate: Share of sends that fail.
        seed: Makes messages and sends repeatable.
    """

    mean_s: float
    stddev_s: float
    failure_rate: float
    seed: int | None = None

    @property
    def load(self) -> str:
        """The other parameters, for people."""
        raise NotImplementedError


class Parameters(Sends, frozen=True, kw_only=True):
    """The conditions of an embedded sweep.

    Attributes:
        messages_per_sender: Messages of a point, for each sender.
    """

    messages_per_sender: int

    @property
    def ideal_per_s(self) -> float | None:
        """Messages a second of a sender that never waits; None without a send time."""
        return 1 / self.mean_s if self.mean_s else None

    @property
    def load(self) -> str:
        return f"{self.messages_per_sender} messages a sender"


class LoadParameters(Sends, frozen=True, kw_only=True):
    """The conditions of a sweep on servers.

    Attributes:
        num_messages: Messages of a point; None for as many as suit the batch size.
        slots: Slots of a sender.
        queue_type: The type of the queues.
    """

    num_messages: int | None
    slots: int
    queue_type: str

    @property
    def load(self) -> str:
        return f"{self.slots:,} slots a sender, {self.queue_type} queues"


class Task(msgspec.Struct, frozen=True):
    """An embedded point to measure.

    Attributes:
        version: The pipeline (`smsim`) or a task per sender (`plain`).
        senders: How many senders.
        parameters: The conditions of the sweep.
    """

    version: Version
    senders: int
    parameters: Parameters

    @property
    def messages(self) -> int:
        """How many messages the point has."""
        return self.senders * self.parameters.messages_per_sender

    @property
    def name(self) -> str:
        """Identifies the point within a sweep."""
        return f"{self.version}, {self.senders:,} senders"


class Load(msgspec.Struct, frozen=True):
    """A point on servers to measure: a producer and senders at once.

    Attributes:
        processes: How many sender processes.
        batch_size: Messages a batch.
        parameters: The conditions of the sweep.
    """

    processes: int
    batch_size: int
    parameters: LoadParameters

    @property
    def messages(self) -> int:
        """How many messages the point has: unless given, as many as take some seconds."""
        return self.parameters.num_messages or min(1_000_000, 60_000 * self.batch_size)

    @property
    def name(self) -> str:
        """Identifies the point within a sweep."""
        return load_name(self.processes, self.batch_size)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A point that was measured.

    Attributes:
        messages, sent, failed: How many messages it had, how many of them were sent, and how many failed.
        elapsed_s: Duration of the whole run.
        steady_per_s: Messages a second without ramp and tail; None if there was no steady phase.
    """

    messages: int
    sent: int
    failed: int
    elapsed_s: float
    steady_per_s: float | None

    @property
    def rate_per_s(self) -> float:
        """Messages per second over the whole run, with ramp and tail."""
        return self.messages / self.elapsed_s

    @property
    def name(self) -> str:
        """As in `Task` and `Load`."""
        raise NotImplementedError

    @property
    def summary(self) -> str:
        """The point in a line, for the terminal."""
        rate = f"{self.rate_per_s:,.0f} messages/s"
        if self.steady_per_s is not None:
            rate += f", {self.steady_per_s:,.0f} once steady"
        return f"{self.name}: {rate}; {self.messages:,} messages in {self.elapsed_s:.1f} s"

    def columns(self) -> dict[str, object]:
        """A row of the CSV file: the fields, then the derived figures."""
        raise NotImplementedError


class Point(Result, frozen=True, kw_only=True):
    """An embedded point that was measured.

    Attributes:
        version, senders: As in `Task`.
        cpu_s: CPU time of the process.
        peak_in_flight: The most messages that were claimed and not settled at once: under overload fewer than senders.
        base_rss_bytes: The most memory of the process in a run of 100 senders before this one.
        peak_rss_bytes: The most memory of the process.
        p50_s, p95_s, p99_s: Percentiles of the send times.
        ideal_per_sender_per_s: Messages a second of a sender that never waits; None without a send time.
    """

    version: Version
    senders: int
    cpu_s: float = 0.0
    peak_in_flight: int
    base_rss_bytes: int = 0
    peak_rss_bytes: int = 0
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    ideal_per_sender_per_s: float | None

    @property
    def name(self) -> str:
        return f"{self.version}, {self.senders:,} senders"

    @property
    def steady_per_sender_per_s(self) -> float | None:
        """Messages per second of each sender in the steady phase."""
        return None if self.steady_per_s is None else self.steady_per_s / self.senders

    @property
    def bytes_per_send(self) -> float:
        """Memory beyond a run of 100 senders, for each send in flight."""
        return (self.peak_rss_bytes - self.base_rss_bytes) / min(self.peak_in_flight, self.senders)

    @property
    def everyone_s(self) -> float | None:
        """Duration of this run if it went on at its steady rate up to 340 million messages."""
        if self.steady_per_s is None:
            return None
        return self.elapsed_s + (EVERYONE - self.messages) / self.steady_per_s

    @property
    def summary(self) -> str:
        return f"{super().summary}, {self.cpu_s:.1f} CPU s, {self.peak_rss_bytes / 1e6:,.0f} MB"

    def columns(self) -> dict[str, object]:
        return {
            "version": self.version,
            "senders": self.senders,
            **msgspec.structs.asdict(self),
            "rate_per_s": self.rate_per_s,
            "rate_per_sender_per_s": self.rate_per_s / self.senders,
            "steady_per_sender_per_s": self.steady_per_sender_per_s,
            "bytes_per_send": self.bytes_per_send,
            "everyone_s": self.everyone_s,
        }


class LoadPoint(Result, frozen=True, kw_only=True):
    """A point on servers that was measured. CPU time counts from the run's begin, without the start of processes.

    Attributes:
        processes, batch_size: As in `Load`.
        producer_cpu_s, senders_cpu_s: CPU time of the producer, and of all senders.
        peak_sender_rss_bytes: The most memory of one sender.
    """

    processes: int
    batch_size: int
    producer_cpu_s: float
    senders_cpu_s: float
    peak_sender_rss_bytes: int

    @property
    def name(self) -> str:
        return load_name(self.processes, self.batch_size)

    def columns(self) -> dict[str, object]:
        key = {"processes": self.processes, "batch_size": self.batch_size}
        return {**key, **msgspec.structs.asdict(self), "rate_per_s": self.rate_per_s}


def load_name(processes: int, batch_size: int) -> str:
    """The name of a point on servers."""
    senders = "1 sender" if processes == 1 else f"{processes} senders"
    return f"{senders}, batches of {batch_size:,}"
