"""The values that a ledger takes and answers."""

from dataclasses import dataclass
from enum import IntEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.counters import Tally
from common.messages import Outcome, Seqs


class Standing(IntEnum):
    """What a claim finds a message to be.

    Attributes:
        NEW: It was queued and is now sending: send it.
        AMBIGUOUS: Another sender claimed it and may have sent it: send it again. It is counted as ambiguous.
        SETTLED: It is sent or failed: skip it.
        DUPLICATE: Another sender has a copy of it: drop this one.
    """

    NEW = 0
    AMBIGUOUS = 1
    SETTLED = 2
    DUPLICATE = 3


@dataclass(frozen=True, eq=False, slots=True)
class Claim:
    """The answer to a claim.

    Attributes:
        standing: The `Standing` of each message, in the order in which they were claimed.
        age_s: Seconds since the run began, by the ledger's clock; 0 if the run is forgotten.
    """

    standing: NDArray[np.uint8]
    age_s: float


@dataclass(frozen=True, eq=False, slots=True)
class Outcomes:
    """The outcomes of messages of one run: arrays of the same length, with each seq once.

    Attributes:
        times_us: How long each send took, in microseconds.
        ambiguous: True for each send that may or may not have gone out. Each of these adds 1 to the counter
            `ambiguous` if its settle counts.
    """

    seqs: Seqs
    outcomes: NDArray[np.uint8]
    times_us: NDArray[np.int64]
    ambiguous: NDArray[np.bool_] | None = None

    def counts(self) -> tuple[int, int, int]:
        """How many are sent, failed and to be retried."""
        by_value = np.bincount(self.outcomes, minlength=4)
        return int(by_value[Outcome.SENT]), int(by_value[Outcome.FAILED]), int(by_value[Outcome.RETRY])

    def ambiguous_count(self, again: bool) -> int:
        """How many count as ambiguous. Retries count too where the settle is made `again`."""
        flagged = self.outcomes == Outcome.RETRY if again else None
        if self.ambiguous is not None:
            flagged = self.ambiguous if flagged is None else flagged | self.ambiguous
        return 0 if flagged is None else int(np.count_nonzero(flagged))

    def where(self, keep: NDArray[np.bool_] | NDArray[np.intp] | slice) -> "Outcomes":
        """The part at the positions that a mask, indices or a slice select."""
        ambiguous = None if self.ambiguous is None else self.ambiguous[keep]
        return Outcomes(self.seqs[keep], self.outcomes[keep], self.times_us[keep], ambiguous)


@dataclass(frozen=True, slots=True)
class Publication:
    """How far a run is published.

    Attributes:
        recipe: How to make its messages again.
        total: How many messages it will have; 0 where that is not known.
        announced: All seqs below this are announced.
        confirmed: All seqs below this are confirmed.
        publishing: Whether a producer is alive and has not finished.
    """

    recipe: str
    total: int
    announced: int
    confirmed: int
    publishing: bool


@dataclass(frozen=True, slots=True)
class SenderStatus:
    """The last heartbeat of a sender, and what it has settled."""

    slots: int = 0
    in_flight: int = 0
    sent: int = 0
    failed: int = 0
    retried: int = 0
    total_time_us: int = 0


class Snapshot(Tally, frozen=True, kw_only=True):
    """The counters of one run, or of all runs, at one moment. Times are Unix times in microseconds, 0 for never.

    Attributes:
        total: How many messages the run will have; 0 where that is not known.
        started_us: When the run began.
        last_settled_us: When a message was last settled.
        latency: Histogram of the send times (common/ledger/histogram.py): number of settled messages by bucket.
    """

    total: int = 0
    started_us: int = 0
    last_settled_us: int = 0
    now_us: int = 0
    latency: dict[int, int] = msgspec.field(default_factory=dict)
    senders: dict[str, SenderStatus] = msgspec.field(default_factory=dict)

    @property
    def queued(self) -> int:
        """Messages published and neither being sent nor settled."""
        return self.published - self.sending - self.settled
