"""What a sender has in its hands: batches that were delivered to it, and groups of sends that began together."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.broker.port import Delivery
from common.messages import Batch, Seqs, bad_numbers, decode_batch


@dataclass(eq=False, slots=True)
class HeldBatch:
    """A delivery in hand. It is acked when all of its messages are settled.

    The messages themselves are let go once checked: a long queue of texts would be most of a sender's memory.
    `begun` messages, from the front, were claimed; `unsettled` are not yet known to the ledger as sent or failed.
    """

    delivery: Delivery
    run: str
    attempt: int
    track: bool
    seqs: Seqs
    bad: frozenset[int]
    unsettled: int
    on_settled: Callable[["HeldBatch"], None]
    begun: int = 0

    @property
    def waiting(self) -> int:
        """Messages not begun."""
        return self.seqs.size - self.begun

    def count_off(self, messages: int) -> None:
        """So many more of its messages need no more care; with the last one the batch is done with."""
        self.unsettled -= messages
        if messages and self.unsettled == 0:
            self.on_settled(self)

    def copy_of(self, seqs: set[int], attempt: int) -> Batch:
        """A batch with some of these messages, to be published again."""
        batch, _ = decode_batch(self.delivery.body)
        return Batch(
            run=self.run,
            attempt=attempt,
            track=self.track,
            messages=[m for m in batch.messages if m.seq in seqs],
        )


def hold(delivery: Delivery, on_settled: Callable[[HeldBatch], None]) -> HeldBatch:
    """Decodes a delivery; `on_settled` hears when all of it is settled. Raises BadBody."""
    batch, seqs = decode_batch(delivery.body)
    bad = frozenset(batch.messages[i].seq for i in bad_numbers(batch.messages))
    return HeldBatch(delivery, batch.run, batch.attempt, batch.track, seqs, bad, seqs.size, on_settled)


@dataclass(eq=False, slots=True)
class Sends:
    """Messages of one run and attempt, claimed together, whose sends begin now.

    Arrays of one length; a provider may put them into the order in which its sends end. `owners[k]` is the place in
    `batches` of the batch that message k came in. The provider fills `outcomes` and `times_us` (microseconds) for
    the positions that it then reports to `finish(first, beyond)`.
    """

    run: str
    attempt: int
    seqs: Seqs
    owners: NDArray[np.int32]
    batches: list[HeldBatch]
    on_finish: Callable[["Sends", int, int], None]
    outcomes: NDArray[np.uint8] = field(init=False)
    times_us: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.outcomes = np.zeros(self.seqs.size, np.uint8)
        self.times_us = np.zeros(self.seqs.size, np.int64)

    def reorder(self, order: NDArray[np.intp]) -> None:
        """Puts the messages into another order, before their outcomes are filled in."""
        self.seqs, self.owners = self.seqs[order], self.owners[order]

    def finish(self, first: int, beyond: int) -> None:
        """The sends at positions `first` to `beyond - 1` have ended."""
        self.on_finish(self, first, beyond)
