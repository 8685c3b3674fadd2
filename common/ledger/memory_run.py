"""What the ledger in memory keeps of a run: counters, a byte a message, and how far it is published."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.counters import Tally
from common.ledger.port import PRODUCER_SILENCE_S
from common.messages import Seqs


@dataclass
class Totals:
    """What is added up for one run, or for all runs.

    Attributes:
        tally: The counters.
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
    """One run: its counters, a state for each seq, and which seqs were counted without an announcement."""

    totals: Totals = field(default_factory=Totals)
    recipe: str = ""
    total: int = 0
    producer: str = ""
    producer_seen_us: int = 0
    announced: int = 0
    confirmed: int = 0
    cut: bool = False
    started_us: int = 0
    states: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(1024, np.uint8))
    unannounced: set[int] = field(default_factory=set)
    replayed: set[int] = field(default_factory=set)

    @property
    def tally(self) -> Tally:
        """The run's counters."""
        return self.totals.tally

    def publishing(self, now_us: int) -> bool:
        """Whether a producer was at it a moment ago, and is not done."""
        open_still = self.total == 0 or self.confirmed < self.total
        return open_still and now_us - self.producer_seen_us < PRODUCER_SILENCE_S * 1e6

    @property
    def over(self) -> bool:
        """Whether all of it is settled, and no more will come, as far as its producer said, if it has one."""
        published = self.tally.published
        if published > self.tally.settled:
            return False
        return self.cut or 0 < self.total <= published if self.producer else published > 0

    def hold(self, last_seq: int) -> None:
        """Makes room for the state of a seq."""
        if last_seq >= self.states.size:
            size = max(last_seq + 1, 2 * self.states.size)
            self.states = np.concatenate([self.states, np.zeros(size - self.states.size, np.uint8)])

    def beyond_announced(self) -> Seqs:
        """The seqs that were counted though nobody has announced them yet, ascending."""
        return np.array(sorted(seq for seq in self.unannounced if seq >= self.announced), np.int64)
