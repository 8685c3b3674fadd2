"""What a sender has in its hands: batches that were delivered to it, and groups of sends that began together."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.broker.port import Delivery
from common.messages import Batch, Message, Seqs, bad_numbers, decode_batch, fitting

# What stands in place of a number and is none is cut to this length in a copy.
LONGEST_NO_NUMBER = 24
NONE_BAD: frozenset[int] = frozenset()


@dataclass(eq=False, slots=True)
class HeldBatch:
    """A delivery in hand. It is acked when all of its messages are settled.

    The messages themselves, by seq, are let go once checked, unless the provider reads them or they are tracked: a
    long queue of texts would be most of a sender's memory.
    `again`: a holder before us may have claimed some of it. `came_s`: when it came, by the loop's clock.
    `begun` messages, from the front, were claimed; `unsettled` need care still, and of these `copying` wait for
    nothing but the confirm of their copy in another queue.
    """

    delivery: Delivery
    run: str
    attempt: int
    track: bool
    again: bool
    seqs: Seqs
    bad: frozenset[int]
    unsettled: int
    on_settled: Callable[["HeldBatch"], None]
    came_s: float
    messages: dict[int, Message] = field(default_factory=dict)
    begun: int = 0
    copying: int = 0

    @property
    def waiting(self) -> int:
        """Messages not begun."""
        return self.seqs.size - self.begun

    @property
    def only_copying(self) -> bool:
        """Whether nothing is left to do but to have copies confirmed, which a broker short of memory holds up."""
        return 0 < self.copying == self.unsettled

    def count_off(self, messages: int) -> None:
        """So many more of its messages need no more care; with the last one the batch is done with."""
        self.unsettled -= messages
        if messages and self.unsettled == 0:
            self.on_settled(self)

    def copies_of(self, seqs: set[int], attempt: int) -> list[Batch]:
        """Some of these messages, to be published again: one batch, or more where they would not fit a body."""
        batch, _ = decode_batch(self.delivery.body)
        copy = Batch(
            run=self.run,
            attempt=attempt,
            track=self.track,
            again=True if self.again and attempt == 1 else msgspec.UNSET,
            messages=[_cut_short(m) if m.seq in self.bad else m for m in batch.messages if m.seq in seqs],
        )
        return list(fitting(copy))


def _cut_short(message: Message) -> Message:
    return Message(message.seq, message.to[:LONGEST_NO_NUMBER], message.text)


def hold(
    delivery: Delivery,
    on_settled: Callable[[HeldBatch], None],
    came_s: float,
    keep_messages: bool = False,
    keep_tracked: bool = False,
) -> HeldBatch:
    """Decodes a delivery that came at `came_s`; `on_settled` hears when all of it is settled. Raises BadBody."""
    batch, seqs = decode_batch(delivery.body)
    at = bad_numbers(batch.messages)
    bad = frozenset([batch.messages[i].seq for i in at]) if at else NONE_BAD
    keep = keep_messages or (keep_tracked and batch.track)
    messages = {m.seq: m for m in batch.messages} if keep else {}
    # A retry's copy, too, is never taken for a duplicate: what it finds sending may be the late claim of a holder that
    # lost its connection, and has since died.
    again = delivery.redelivered or batch.attempt > 1 or batch.again is True
    return HeldBatch(
        *(
            delivery,
            batch.run,
            batch.attempt,
            batch.track,
            again,
            seqs,
            bad,
            seqs.size,
            on_settled,
            came_s,
            messages,
        )
    )


@dataclass(eq=False, slots=True)
class Sends:
    """Messages of one run and attempt, claimed together, whose sends begin now.

    Arrays of one length; a provider may put them into the order in which its sends end. `owners[k]` is the place in
    `batches` of the batch that message k came in. `age_s` is how long ago the run began, in seconds; `messages` has
    the messages themselves, for a provider that reads them. `track`: somebody wants to hear of their steps.

    The provider fills `outcomes` and `times_us` (microseconds) for the positions that it then reports to
    `finish(first, beyond)`; and where that applies `retry_after_s`, the shortest wait before another attempt, and
    `ambiguous`, true where nobody knows whether the message went out. `kept`: a copy of each is in the failed queue.
    """

    run: str
    attempt: int
    seqs: Seqs
    owners: NDArray[np.int32]
    batches: list[HeldBatch]
    on_finish: Callable[["Sends", int, int], None]
    age_s: float = 0.0
    messages: list[Message] | None = None
    track: bool = False
    outcomes: NDArray[np.uint8] = field(init=False)
    times_us: NDArray[np.int64] = field(init=False)
    retry_after_s: NDArray[np.float32] | None = field(init=False, default=None)
    ambiguous: NDArray[np.bool_] | None = field(init=False, default=None)
    kept: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.outcomes = np.zeros(self.seqs.size, np.uint8)
        self.times_us = np.zeros(self.seqs.size, np.int64)

    def reorder(self, order: NDArray[np.intp]) -> None:
        """Puts the messages into another order, before their outcomes are filled in."""
        self.seqs, self.owners = self.seqs[order], self.owners[order]
        if self.messages is not None:
            self.messages = [self.messages[k] for k in order]

    def part(self, at: NDArray[np.intp]) -> "Sends":
        """The sends at some positions, with what came of them."""
        part = Sends(self.run, self.attempt, self.seqs[at], self.owners[at], self.batches, self.on_finish)
        part.track = self.track
        part.outcomes, part.times_us = self.outcomes[at], self.times_us[at]
        part.retry_after_s = None if self.retry_after_s is None else self.retry_after_s[at]
        part.ambiguous = None if self.ambiguous is None else self.ambiguous[at]
        return part

    def finish(self, first: int, beyond: int) -> None:
        """The sends at positions `first` to `beyond - 1` have ended."""
        self.on_finish(self, first, beyond)
