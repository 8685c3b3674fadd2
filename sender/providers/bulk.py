"""The bulk form of a provider: the sends it is given, and the calls it answers. The sender knows no other form."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from common.messages import Message, Seqs
from sender.unacked import UnackedBatch


@runtime_checkable
class BulkProvider(Protocol):
    """Sends messages, many at once: for providers that must be faster than one coroutine a message allows.

    `single.py` turns a `Provider`, which sends one message at a time, into a bulk provider.

    Attributes:
        reads_messages: Whether it needs the numbers and texts, in `sends.messages`.
    """

    reads_messages: bool

    def start(self, sends: "Sends") -> None:
        """Begins all sends now and returns at once; reports them through `sends.finish` as they end.

        An outcome is SENT, FAILED (final), or RETRY (a later attempt may succeed; the sender decides whether
        there is one).
        """

    async def close(self) -> None:
        """Abandons all sends in flight; reports nothing afterwards. Closing twice is safe."""


@dataclass(eq=False, slots=True)
class Sends:
    """Messages of one run and attempt that were claimed together and begin now.

    Its arrays have one length. A provider may reorder them, before it fills in any result. It fills in the results
    of some positions and then reports these by `finish(first, beyond)`.

    Attributes:
        run: The run of all the messages.
        attempt: The attempt that this is, from 1.
        seqs: The sequence number of each message.
        owners: For each message, the index in `batches` of the batch that it came in.
        batches: The batches that the messages came in.
        on_finish: Takes the sends and a range of positions that have ended.
        age_s: How long ago the run began, in seconds.
        messages: The messages themselves, for a provider that reads them.
        track: Whether the steps of these messages are published.
        simulated: Whether only the simulated provider may send them.
        outcomes: Result: what each send came to, a value of `Outcome`.
        times_us: Result: how long each send took, in microseconds.
        retry_after_s: Result, optional: the shortest wait before another attempt.
        ambiguous: Result, optional: true where the message may or may not have been sent.
        kept: Whether a copy of each message is in the failed queue.
    """

    run: str
    attempt: int
    seqs: Seqs
    owners: NDArray[np.int32]
    batches: list[UnackedBatch]
    on_finish: Callable[["Sends", int, int], None]
    age_s: float = 0.0
    messages: list[Message] | None = None
    track: bool = False
    simulated: bool = False
    outcomes: NDArray[np.uint8] = field(init=False)
    times_us: NDArray[np.int64] = field(init=False)
    retry_after_s: NDArray[np.float32] | None = field(init=False, default=None)
    ambiguous: NDArray[np.bool_] | None = field(init=False, default=None)
    kept: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.outcomes = np.zeros(self.seqs.size, np.uint8)
        self.times_us = np.zeros(self.seqs.size, np.int64)

    def reorder(self, order: NDArray[np.intp]) -> None:
        """Puts the messages into another order, before any result is filled in."""
        self.seqs, self.owners = self.seqs[order], self.owners[order]
        if self.messages is not None:
            self.messages = [self.messages[k] for k in order]

    def part(self, at: NDArray[np.intp]) -> "Sends":
        """The sends at some positions, with all that is known of them."""
        part = Sends(
            run=self.run,
            attempt=self.attempt,
            seqs=self.seqs[at],
            owners=self.owners[at],
            batches=self.batches,
            on_finish=self.on_finish,
            age_s=self.age_s,
            messages=None if self.messages is None else [self.messages[k] for k in at],
            track=self.track,
            simulated=self.simulated,
        )
        part.outcomes, part.times_us = self.outcomes[at], self.times_us[at]
        part.retry_after_s = None if self.retry_after_s is None else self.retry_after_s[at]
        part.ambiguous = None if self.ambiguous is None else self.ambiguous[at]
        part.kept = self.kept
        return part

    def finish(self, first: int, beyond: int) -> None:
        """The sends at positions `first` to `beyond - 1` have ended."""
        self.on_finish(self, first, beyond)
