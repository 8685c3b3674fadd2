"""A point of the distributed sweep: what so many sender processes make of batches of one size."""

import msgspec


class LoadParameters(msgspec.Struct, frozen=True):
    """What is the same for all points. `num_messages` None: as many as fit the batch size. `slots` is a sender's."""

    num_messages: int | None
    slots: int
    mean_s: float
    stddev_s: float
    failure_rate: float
    seed: int | None
    queue_type: str

    def messages(self, batch_size: int) -> int:
        """How many messages go through a point, unless somebody said: some seconds' worth."""
        return self.num_messages or min(1_000_000, 60_000 * batch_size)


class Load(msgspec.Struct, frozen=True):
    """One point to measure: producer and senders at once."""

    processes: int
    batch_size: int
    parameters: LoadParameters

    @property
    def messages(self) -> int:
        """How many messages go through it."""
        return self.parameters.messages(self.batch_size)

    @property
    def name(self) -> str:
        """For people."""
        senders = "1 sender" if self.processes == 1 else f"{self.processes} senders"
        return f"{senders}, batches of {self.batch_size:,}"


class LoadPoint(msgspec.Struct, frozen=True):
    """One point, measured by the ledger's clock from the run's begin to its last settle.

    CPU seconds count from the run's begin, seen to LOOK_S, so that the start of a process is not among them. Memory is
    the most of one sender.
    """

    processes: int
    batch_size: int
    messages: int
    sent: int
    failed: int
    elapsed_s: float
    steady_per_s: float | None
    producer_cpu_s: float
    senders_cpu_s: float
    peak_sender_rss_bytes: int

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from the other points of a study."""
        return self.processes, self.batch_size

    @property
    def rate_per_s(self) -> float:
        """Messages per second over the whole run."""
        return self.messages / self.elapsed_s

    def columns(self) -> dict[str, object]:
        """A row of the CSV file."""
        return msgspec.structs.asdict(self) | {"rate_per_s": self.rate_per_s}
