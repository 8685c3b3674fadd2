"""The figures: what one measurement gives, and the medians over rounds that the JSON holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from studies.meter import Meter

# Who did it, where that is not a peer: ours over the servers, and in one process.
US, EMBEDDED = "ours", "embedded"
# The works that all have in common.
PUBLISH, CONSUME, BOTH = "publish", "consume", "both at once"
# The processes that users dimension their machines by; the servers' memory is mostly their own caches.
CLIENTS = ("producer", "sender", "embedded")


@dataclass(frozen=True)
class Measured:
    """One measurement. `batch_size` is None where the pipeline chooses it; `who` is a peer's name, or ours.

    `steady_per_s` is the rate with ramp and tail left out, where that is what was asked for; all else, as `elapsed_s`,
    is of the whole run.
    """

    work: str
    batch_size: int | None
    messages: int
    elapsed_s: float
    cpu_s: dict[str, float]
    peak_mb: dict[str, float]
    who: str = US
    steady_per_s: float | None = None

    @classmethod
    def of(
        cls, work: str, batch_size: int | None, messages: int, elapsed_s: float, meter: Meter, who: str = US
    ) -> "Measured":
        """With what a meter saw."""
        return cls(work, batch_size, messages, elapsed_s, meter.cpu_s(), meter.peak_mb(), who)

    @property
    def rate_per_s(self) -> float:
        """Messages per second."""
        return self.messages / self.elapsed_s if self.steady_per_s is None else self.steady_per_s


def figure(rounds: Sequence[Measured]) -> dict[str, Any]:
    """The medians over rounds of the same measurement, as JSON values."""
    first = rounds[0]
    rates = [round(one.rate_per_s) for one in rounds]
    per_million = 1e6 / first.messages
    return {
        "who": first.who,
        "work": first.work,
        "batch_size": first.batch_size,
        "messages": first.messages,
        "rate_per_s": round(median(rates)),
        "rates_per_s": rates,
        "elapsed_s": round(median(one.elapsed_s for one in rounds), 3),
        "cpu_s_per_million": {
            name: round(median(one.cpu_s[name] for one in rounds) * per_million, 2) for name in first.cpu_s
        },
        "peak_rss_mb": {
            name: round(median(one.peak_mb[name] for one in rounds), 1)
            for name in CLIENTS
            if name in first.peak_mb
        },
    }
