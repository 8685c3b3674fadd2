"""What a ledger promises. The contract suite, tests/contract/test_ledger.py, runs against every implementation.

- At every moment, for every run and in total: published = queued + sending + sent + failed.
- A message is counted once as sent or failed, however often it is claimed or settled.
- A call takes effect wholly or not at all, and repeating it changes nothing.
- A ledger that cannot be reached is tried again, with backoff, until it answers: no call is lost.

A `Ledger` has three roles. A service takes the role that it needs.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.ledger.values import Claim, Outcomes, Publication, Snapshot
from common.messages import Seqs


@dataclass(frozen=True, slots=True)
class Timing:
    """When a ledger takes others for dead.

    Attributes:
        sender_silence_s: A sender is no longer listed when its last heartbeat is older than this.
        producer_silence_s: A run can be resumed when the last call of its producer is older than this.
    """

    sender_silence_s: float = 10.0
    producer_silence_s: float = 15.0


TIMING = Timing()


class Claims(Protocol):
    """A sender's side: who sends a message, and what came of it."""

    async def claim(self, run: str, seqs: Seqs, redelivered: bool) -> Claim:
        """Takes messages before they are sent: queued to sending.

        A message that is sending already is AMBIGUOUS if its delivery is redelivered, else a DUPLICATE. A seq that was
        not announced is added to `published`. A run that was not begun begins now.
        """

    async def settle(self, run: str, outcomes: Outcomes, sender: str = "", again: bool = False) -> None:
        """Records outcomes: sent, failed, or back to queued for a retry. Settled messages do not change.

        With a sender's name, the counters of that sender change too. `again`: this call was made before, and its answer
        was lost. Another sender may have claimed what it puts back to queued, so that counts as ambiguous.
        """

    async def release(self, run: str, seqs: Seqs, again: bool = False) -> None:
        """Gives back messages that were claimed and not begun: sending to queued. `again` as for `settle`."""

    async def cancel(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        """Cancels what is queued: it is settled as failed and counted in `canceled`, and has no send time.

        All other messages stay as they are. Answers which of the messages are canceled, by this call or an earlier one,
        in the order of `seqs`. A sender that meets one of them finds it settled and skips it. A seq that was not
        announced is added to `published`. Nothing is canceled of a forgotten run.
        """

    async def reject(self, bodies: int) -> None:
        """Counts bodies that are no batch. They are outside the identity, and counted at least once."""

    async def heartbeat(self, sender: str, slots: int, in_flight: int) -> int:
        """Lists a sender in snapshots until `Timing.sender_silence_s` after its last heartbeat.

        Answers when the ledger first heard of it, in microseconds of Unix time. A later time than before means that the
        ledger has lost writes.
        """

    async def deregister(self, sender: str) -> None:
        """Removes a sender from snapshots."""


class Publications(Protocol):
    """The side of those who publish, repeat and remove runs."""

    async def begin(self, run: str, recipe: str, total: int, producer: str) -> None:
        """Opens a run. `recipe` is how to make its messages again. Raises RunExists.

        The name of a forgotten run can be used again.
        """

    async def resume(self, run: str, producer: str) -> Publication:
        """Makes another producer the run's. Raises UnknownRun, or RunBusy if the former producer is alive."""

    async def leave(self, run: str, producer: str) -> None:
        """The producer ends before the run is published: another producer can resume it at once."""

    async def announce(self, run: str, first: int, count: int) -> None:
        """Before publishing: adds seqs `first` to `first + count - 1` to `published`.

        `first` is at most what was announced so far; what was announced before is not counted again. Raises LedgerLost,
        and changes nothing, where that leaves a gap, since the ledger has lost earlier calls; and where the run was
        closed and the seqs are new, since another process has taken this producer for dead.
        """

    async def confirm(self, run: str, upto: int) -> None:
        """All seqs below `upto` are safely in the queue. A lower value than before changes nothing."""

    async def close_run(self, run: str) -> None:
        """Ends the publishing of a run: its total is what is announced, and all of that counts as confirmed.

        Later announcements are refused. What is announced and in no queue stays queued: the caller settles it as
        failed. Raises UnknownRun.
        """

    async def forget(self, run: str) -> None:
        """Removes a run that is over, settled and wholly published; the totals of all runs stay.

        For as long as a settled run is kept, a late copy of one of its messages finds it settled and is not counted.
        Raises UnknownRun; RunOpen if the run is not over, or was not begun by a producer.
        """

    async def mark_replayed(self, run: str, seqs: Seqs) -> None:
        """Marks messages as replayed in another run. Does nothing if the run is unknown."""


class Reports(Protocol):
    """What can be read. Nothing here changes the ledger."""

    async def runs(self, newest: int | None = None) -> list[str]:
        """The runs, oldest first. With `newest`, that many of the newest, at a cost in proportion.

        There may be hundreds of thousands: read all of them seldom.
        """

    async def open_runs(self) -> list[str]:
        """The runs that are not over, oldest first: some message is not settled, or not all messages are announced.

        A run that was not begun by a producer is over when all its known messages are settled.
        """

    async def publication(self, run: str) -> Publication:
        """How far a run is published. Raises UnknownRun."""

    async def states(self, run: str, seqs: Seqs) -> NDArray[np.uint8]:
        """The `State` of each message, in the order of `seqs`; QUEUED for unknown ones. Raises UnknownRun."""

    async def canceled(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        """Which messages are canceled. Raises UnknownRun."""

    async def replayed(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        """Which messages are marked as replayed; none of them if the run is unknown."""

    def unsettled(self, run: str) -> AsyncIterator[Seqs]:
        """The seqs that are published and neither sent nor failed, ascending, a piece at a time. Raises UnknownRun.

        Uses constant memory. A message that changes meanwhile may be seen before or after its change.
        """

    async def snapshot(self, run: str | None = None) -> Snapshot:
        """The counters of a run, or of all runs. Raises UnknownRun."""

    async def recount(self, run: str) -> dict[str, int]:
        """The counters of `common.counters.RECOUNTED`, counted message by message, to prove them. Raises UnknownRun.

        `published` is what is announced, and what was claimed beyond that without an announcement.
        """


class Ledger(Claims, Publications, Reports, Protocol):
    """The record of runs, with all its roles."""

    async def ready(self) -> None:
        """Returns once the ledger has taken a write, which changes nothing. Raises Refused."""

    async def close(self) -> None:
        """Closes the connections."""
