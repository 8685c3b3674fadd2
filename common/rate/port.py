"""What a rate limit promises. One contract suite, tests/contract/test_rate.py, holds every implementation to it.

- All takers of one limit share a token bucket: in any T seconds no more than rate · T + 1 + 0.1 · rate are granted,
  whatever is killed or repeated. A take whose answer was lost has used its tokens up, so repeating it is safe.
- Urgent first: while an urgent taker waits for what it was not granted, bulk takers get only what is left beyond
  that. One that never asks again is waited for little longer than it was told to wait itself.
- A clock that jumps ahead fills the bucket at most; from one that jumps back, time is counted from then on.
"""

import random
from dataclasses import dataclass
from typing import Protocol

from common.messages import Lane

# The bucket holds one token and those of this long: what may follow a pause at once.
BURST_S = 0.1
# A taker is told to wait for this long's tokens, if it wants so many: asking for fewer at a time would be dear.
PART_S = 0.05
SHORTEST_WAIT_S = 0.001
LONGEST_WAIT_S = 1.0
# Waits are lengthened by up to this share, so that of several takers it is not always the same that asks first.
JITTER = 0.1
# An urgent taker that does not ask again this long after it could have is waited for no more.
PATIENCE_S = 0.25


@dataclass(frozen=True, slots=True)
class Grant:
    """`granted` sends may begin now. If these are fewer than wanted, ask again after `wait_s` seconds."""

    granted: int
    wait_s: float


class RateLimit(Protocol):
    """How many sends may begin, over all senders together."""

    @property
    def rate(self) -> float:
        """Messages per second."""

    async def take(self, lane: Lane, wanted: int) -> Grant:
        """Takes up to `wanted` tokens. What is granted and not used lapses."""


def bucket_of(rate: float) -> float:
    """How many tokens a bucket holds."""
    return 1 + BURST_S * rate


def part_of(rate: float) -> float:
    """How many tokens are worth waiting for."""
    return max(1.0, PART_S * rate)


def wait_for(time_s: float) -> float:
    """A wait of so long, within the bounds and jittered."""
    longest_s = LONGEST_WAIT_S / (1 + JITTER)
    return min(longest_s, max(SHORTEST_WAIT_S, time_s)) * random.uniform(1, 1 + JITTER)
