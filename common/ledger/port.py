"""What a ledger promises. One contract suite, tests/contract/test_ledger.py, holds every implementation to it.

- At every moment, for every run and in total: published = queued + sending + sent + failed.
- A message is counted once as sent or failed, however often it is claimed or settled.
- Each call is carried out wholly or not at all, and gives the same result when repeated.
- A ledger that can't be reached is tried again, with backoff, until it answers: no call is lost.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.counters import Tally
from common.messages import Outcome, Seqs


class Standing(IntEnum):
    """What a claim finds a message to be."""

    NEW = 0  # queued, and now taken: send it
    AMBIGUOUS = 1  # a holder before us may have sent it: send it again; counted as ambiguous
    SETTLED = 2  # sent or failed already: skip it
    DUPLICATE = 3  # another copy of it is in hand elsewhere: drop this one


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
    """What came of some messages of one run. Arrays of one length; no seq stands twice.

    `outcomes` holds `Outcome` values; `times_us` is how long each send took, in microseconds. `ambiguous`, where
    given, is true for sends of which nobody knows whether they went out: each one whose settle is counted adds 1 to
    the counter `ambiguous`.
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
        """How many count as ambiguous; those to be retried, too, where this is settled `again`."""
        flagged = self.outcomes == Outcome.RETRY if again else None
        if self.ambiguous is not None:
            flagged = self.ambiguous if flagged is None else flagged | self.ambiguous
        return 0 if flagged is None else int(np.count_nonzero(flagged))

    def where(self, keep: NDArray[np.bool_] | NDArray[np.intp] | slice) -> "Outcomes":
        """The part that a mask of the same length, positions or a slice pick."""
        ambiguous = None if self.ambiguous is None else self.ambiguous[keep]
        return Outcomes(self.seqs[keep], self.outcomes[keep], self.times_us[keep], ambiguous)


@dataclass(frozen=True, slots=True)
class Resumable:
    """What a producer needs to go on with a run: the recipe of its messages, and how far it got."""

    recipe: str
    total: int
    announced: int
    confirmed: int


@dataclass(frozen=True, slots=True)
class Publication:
    """How far the publishing of a run has got. `announced` and `confirmed` are seqs: all below them are.

    `total` is how many messages the run will have (0 where nobody said). `publishing`: a producer was heard of within
    PRODUCER_SILENCE_S, and not all is confirmed, or nobody said how many there will be.
    """

    recipe: str
    total: int
    announced: int
    confirmed: int
    publishing: bool


@dataclass(frozen=True, slots=True)
class SenderStatus:
    """What a sender says of itself in a heartbeat, and what it has settled so far."""

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
        now_us: When the snapshot was taken, by the ledger's clock.
        latency: Histogram of the send times (common/ledger/latency.py): bucket to count of settled messages.
        senders: The senders that are alive, by name.
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


class Ledger(Protocol):
    """The record of runs."""

    async def begin(self, run: str, recipe: str, total: int, producer: str) -> None:
        """Opens a run: `recipe` is what is needed to make its messages again. Raises RunExists.

        The name of a forgotten run is free again.
        """

    async def resume(self, run: str, producer: str) -> Resumable:
        """Hands a run whose producer is gone to another. Raises UnknownRun, or RunBusy if the former one lives."""

    async def leave(self, run: str, producer: str) -> None:
        """The producer ends before the run is published: another may resume it at once."""

    async def announce(self, run: str, first: int, count: int) -> None:
        """Before publishing: adds seqs `first` to `first + count - 1` to `published`.

        `first` is at most what was announced so far; what was announced before is not counted again. Raises LedgerLost
        where there is a gap, since the ledger has lost what it was told before; and where the run was cut and this is
        new, since somebody else took its producer for dead and has ended it. Either way nothing changes.
        """

    async def confirm(self, run: str, upto: int) -> None:
        """All seqs below `upto` are safely in the queue. Less than before changes nothing."""

    async def cut(self, run: str) -> None:
        """Nothing more of a run will be published: its total is what is announced, and all of that counts as confirmed.
        Whoever would announce more of it from now on is refused.

        What is announced and in no queue stays queued: the caller settles it as failed. Raises UnknownRun.
        """

    async def forget(self, run: str) -> None:
        """Removes a run that is over, settled and wholly published, from the record; the totals of all runs stay.

        For as long as a settled run is kept, a late copy of one of its messages finds it settled and counts nowhere.
        Raises UnknownRun, or RunOpen if the run is not over, or nobody knows, since no producer began it.
        """

    async def runs(self, newest: int | None = None) -> list[str]:
        """The runs in the ledger, oldest first; with `newest`, no more than so many of the newest, at a cost of that.

        All of them may be hundreds of thousands: ask for these seldom.
        """

    async def open_runs(self) -> list[str]:
        """The runs that are not over, oldest first: some message is not settled, or its producer has not announced all
        of its messages. A run that nobody began is over whenever all that is known of it is settled.
        """

    async def publication(self, run: str) -> Publication:
        """How far a run is published; changes nothing. Raises UnknownRun."""

    async def states(self, run: str, seqs: Seqs) -> NDArray[np.uint8]:
        """The `State` of each message, in the order of `seqs`; QUEUED for those never heard of. Raises UnknownRun."""

    async def replayed(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        """Which of some messages were marked as replayed; none where the run is unknown."""

    async def mark_replayed(self, run: str, seqs: Seqs) -> None:
        """Marks messages as replayed under another run; nothing where the run is unknown."""

    def unsettled(self, run: str) -> AsyncIterator[Seqs]:
        """The seqs that are published and neither sent nor failed, ascending, a piece at a time. Raises UnknownRun.

        Memory is constant; what changes meanwhile may be seen as it was or as it is.
        """

    async def claim(self, run: str, seqs: Seqs, redelivered: bool) -> Claim:
        """Takes messages before they are sent.

        A message that is sending already is AMBIGUOUS if this delivery is a redelivered one, else a DUPLICATE.
        A seq that nobody announced is added to `published`, and a run that nobody began begins now.
        """

    async def settle(self, run: str, outcomes: Outcomes, sender: str = "", again: bool = False) -> None:
        """Records what came of messages: sent, failed, or back to queued for a retry. Settled ones stay as they are.

        With a sender's name, its own counters are kept too. `again`: this call was made before and its answer was lost.
        What goes back to queued by it may be in another's hands since, so it counts as ambiguous.
        """

    async def release(self, run: str, seqs: Seqs, again: bool = False) -> None:
        """Gives back what was claimed and not begun: sending to queued, nothing else changes. `again` as for settle."""

    async def withdraw(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        """Settles as failed, in no time, what nobody has taken: queued to failed; all else stays as it is.

        Gives which messages were failed by this, in the order of `seqs`: whoever meets one of them finds it settled, so
        that it will not be sent. If the answer was lost and the ledger asked again, what it then finds failed counts as
        failed by this. A seq that nobody announced is added to `published`.
        """

    async def reject(self, bodies: int) -> None:
        """Counts bodies that are no batch. Not part of the identity, and counted at least once."""

    async def heartbeat(self, sender: str, slots: int, in_flight: int) -> None:
        """A sender lives: it is listed in snapshots until it was silent for SENDER_SILENCE_S."""

    async def goodbye(self, sender: str) -> None:
        """A sender ends: it is no longer listed."""

    async def snapshot(self, run: str | None = None) -> Snapshot:
        """The counters now. Raises UnknownRun."""

    async def recount(self, run: str) -> dict[str, int]:
        """`published`, `sending`, `sent` and `failed`, counted message by message, to prove the counters.

        `published` is what is announced, and what beyond that was claimed with no announcement. Raises UnknownRun.
        """

    async def close(self) -> None:
        """Closes the connections."""


NEVER_BEGUN = (
    "nobody said how many messages run {} has, so that more may come:"
    " it goes by itself when RUN_TTL has passed since its last one"
)
LOST = (
    "the ledger no longer knows of seqs {} to {} of run {}, which were announced: Redis has lost writes,"
    " by a failover, a FLUSHALL or a crash without appendfsync always"
)
ENDED = (
    "run {} was ended meanwhile, by another gateway or smsim audit --repair:"
    " nothing more can be published under its name"
)
SENDER_SILENCE_S = 10.0
PRODUCER_SILENCE_S = 15.0
