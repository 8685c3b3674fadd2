"""What the ledger in memory keeps of a run: counters, a byte a message, and how far it is published."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.ledger.port import PRODUCER_SILENCE_S
from common.messages import Seqs


@dataclass
class Tally:
    """The counters of one run, or of all."""

    published: int = 0
    sending: int = 0
    sent: int = 0
    failed: int = 0
    retried: int = 0
    ambiguous: int = 0
    rejected: int = 0
    total_time_us: int = 0
    last_settled_us: int = 0
    latency: Counter[int] = field(default_factory=Counter)


@dataclass
class MemoryRun:
    """One run: its counters, a state for each seq, and which seqs were counted without an announcement."""

    tally: Tally = field(default_factory=Tally)
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

    def publishing(self, now_us: int) -> bool:
        """Whether a producer was at it a moment ago, and is not done."""
        open_still = self.total == 0 or self.confirmed < self.total
        return open_still and now_us - self.producer_seen_us < PRODUCER_SILENCE_S * 1e6

    @property
    def over(self) -> bool:
        """Whether all of it is settled, and no more will come, as far as its producer said, if it has one."""
        published = self.tally.published
        if published > self.tally.sent + self.tally.failed:
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
