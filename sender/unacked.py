"""A batch that was delivered to this sender and is not acked yet."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from common.broker.port import Delivery
from common.messages import Batch, Message, Seqs, bad_numbers, decode_batch, fitting

# What stands in place of a number and is none is cut to this length in a copy.
LONGEST_NO_NUMBER = 24
NONE_BAD: frozenset[int] = frozenset()


@dataclass(eq=False, slots=True)
class UnackedBatch:
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
    on_settled: Callable[["UnackedBatch"], None]
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
    return msgspec.structs.replace(message, to=message.to[:LONGEST_NO_NUMBER])


def hold(
    delivery: Delivery,
    on_settled: Callable[[UnackedBatch], None],
    came_s: float,
    keep_messages: bool = False,
    keep_tracked: bool = False,
) -> UnackedBatch:
    """Decodes a delivery that came at `came_s`; `on_settled` hears when all of it is settled. Raises BadBody."""
    batch, seqs = decode_batch(delivery.body)
    at = bad_numbers(batch.messages)
    bad = frozenset([batch.messages[i].seq for i in at]) if at else NONE_BAD
    keep = keep_messages or (keep_tracked and batch.track)
    messages = {m.seq: m for m in batch.messages} if keep else {}
    # A retry's copy, too, is never taken for a duplicate: what it finds sending may be the late claim of a holder that
    # lost its connection, and has since died.
    again = delivery.redelivered or batch.attempt > 1 or batch.again is True
    return UnackedBatch(
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
