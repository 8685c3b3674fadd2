"""A run of the ledger in memory: its counters, the states of its messages, and how far it is published."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.counters import Tally
from common.messages import Seqs


@dataclass
class Totals:
    """What is added up for one run, or for all runs.

    Attributes:
        last_settled_us: When a message was last settled, as Unix time in microseconds; 0 for never.
        latency: Histogram of the send times of settled messages.
    """

    tally: Tally = field(default_factory=Tally)
    last_settled_us: int = 0
    latency: Counter[int] = field(default_factory=Counter)

    def count(self, change: Tally) -> None:
        """Adds to the counters."""
        self.tally += change


@dataclass
class MemoryRun:
    """One run.

    Attributes:
        total: How many messages it will have; 0 where that is not known.
        producer_seen_us: When the producer last made a call, as Unix time in microseconds.
        announced: All seqs below this are announced.
        closed: Whether it was closed, so that no more can be announced.
        canceled: Whether each seq is canceled.
        unannounced: The seqs that were counted without an announcement.
        replayed: The seqs that were replayed in another run.
    """

    totals: Totals = field(default_factory=Totals)
    recipe: str = ""
    total: int = 0
    producer: str = ""
    producer_seen_us: int = 0
    announced: int = 0
    confirmed: int = 0
    closed: bool = False
    started_us: int = 0
    states: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(1024, np.uint8))
    canceled: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(1024, np.bool_))
    unannounced: set[int] = field(default_factory=set)
    replayed: set[int] = field(default_factory=set)

    @property
    def tally(self) -> Tally:
        """The run's counters."""
        return self.totals.tally

    @property
    def published(self) -> bool:
        """Whether all of its messages are in the queue, as far as their number is known."""
        return 0 < self.total <= self.confirmed

    @property
    def over(self) -> bool:
        """Whether all of it is settled and no more messages will come."""
        published = self.tally.published
        if published > self.tally.settled:
            return False
        return self.closed or 0 < self.total <= published if self.producer else published > 0

    def hold(self, last_seq: int) -> None:
        """Makes room for the state of a seq."""
        if last_seq >= self.states.size:
            size = max(last_seq + 1, 2 * self.states.size)
            more = size - self.states.size
            self.states = np.concatenate([self.states, np.zeros(more, np.uint8)])
            self.canceled = np.concatenate([self.canceled, np.zeros(more, np.bool_)])

    def beyond_announced(self) -> Seqs:
        """The seqs that were counted without an announcement and are not announced yet, ascending."""
        return np.array(sorted(seq for seq in self.unannounced if seq >= self.announced), np.int64)
