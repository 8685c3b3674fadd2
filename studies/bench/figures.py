"""The figures of one measurement, and the medians over rounds that the JSON holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import msgspec

from studies.bench.peers.port import Peer
from studies.meter import Meter
from studies.record import Record

OURS, EMBEDDED = "ours", "embedded"
PUBLISH, CONSUME, BOTH = "publish", "consume", "both at once"
# Users plan their machines by these processes; most of a server's memory is its own cache.
CLIENTS = ("producer", "sender", "embedded")


@dataclass(frozen=True)
class Work:
    """Something to measure.

    Attributes:
        name: The work.
        batch_size: Messages a batch; None where the pipeline chooses it.
        messages: How many messages.
    """

    name: str
    batch_size: int | None
    messages: int


@dataclass(frozen=True)
class Measured:
    """One measurement.

    Attributes:
        who: `OURS`, `EMBEDDED` or the name of a peer.
        work: The work measured.
        elapsed_s: Duration of the whole run.
        cpu_s, peak_mb: CPU time and peak memory by process.
        steady_per_s: The rate without ramp and tail, where that is wanted.
    """

    who: str
    work: Work
    elapsed_s: float
    cpu_s: Mapping[str, float]
    peak_mb: Mapping[str, float]
    steady_per_s: float | None = None

    @classmethod
    def of(cls, who: str, work: Work, elapsed_s: float, meter: Meter) -> "Measured":
        """With the costs that a meter sampled."""
        return cls(who, work, elapsed_s, meter.cpu_s(), meter.peak_mb())

    @property
    def rate_per_s(self) -> float:
        """Messages per second."""
        return self.work.messages / self.elapsed_s if self.steady_per_s is None else self.steady_per_s


class Figure(msgspec.Struct, frozen=True):
    """The medians over the rounds of one measurement.

    Attributes:
        who, work, batch_size, messages, elapsed_s: As in `Measured` and `Work`.
        rate_per_s, rates_per_s: The median of the rates, and the rate of each round.
        cpu_s_per_million: CPU seconds by process for a million messages.
        peak_rss_mb: Peak memory of each client process, in MB.
    """

    who: str
    work: str
    batch_size: int | None
    messages: int
    rate_per_s: int
    rates_per_s: list[int]
    elapsed_s: float
    cpu_s_per_million: dict[str, float]
    peak_rss_mb: dict[str, float]

    @classmethod
    def of(cls, rounds: Sequence[Measured]) -> "Figure":
        """The medians of one measurement."""
        first, work = rounds[0], rounds[0].work
        rates = [round(one.rate_per_s) for one in rounds]
        cpu_s, peak_mb = ([one.cpu_s for one in rounds], [one.peak_mb for one in rounds])
        return cls(
            who=first.who,
            work=work.name,
            batch_size=work.batch_size,
            messages=work.messages,
            rate_per_s=round(median(rates)),
            rates_per_s=rates,
            elapsed_s=round(median(one.elapsed_s for one in rounds), 3),
            cpu_s_per_million=_medians(cpu_s, list(first.cpu_s), factor=1e6 / work.messages, digits=2),
            peak_rss_mb=_medians(peak_mb, [name for name in CLIENTS if name in first.peak_mb], digits=1),
        )


def _medians(
    rounds: Sequence[Mapping[str, float]], names: Sequence[str], *, factor: float = 1.0, digits: int
) -> dict[str, float]:
    return {name: round(factor * median(one[name] for one in rounds), digits) for name in names}


class PeerNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """A peer in the record.

    Attributes:
        name, publishes, works, docs: As in `Peer`.
        failure: Why it has no figures.
    """

    name: str
    publishes: str
    works: str
    docs: list[str]
    failure: str | None = None

    @classmethod
    def of(cls, peer: Peer, failure: str | None) -> "PeerNote":
        """The note of a peer."""
        return cls(peer.name, peer.publishes, peer.works, list(peer.docs), failure)


class BenchRecord(Record, frozen=True, kw_only=True):
    """The results of `make bench`.

    Attributes:
        rounds, scale: How many rounds the medians are over, and the factor on the message counts.
        sender_concurrency: Slots of our sender.
        peers: How the peers are set up.
        figures: The figures, in the order of the first round.
    """

    rounds: int
    scale: float
    sender_concurrency: int
    peers: list[PeerNote]
    figures: list[Figure]
