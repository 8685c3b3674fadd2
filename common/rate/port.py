"""What a rate limit promises. The contract suite, tests/contract/test_rate.py, runs against every implementation.

- All takers of a limit share a token bucket: in any T seconds at most rate · T + 1 + 0.1 · rate are granted, even if
  takers are killed or calls repeated. A call whose answer was lost has used its tokens, so repeating it is safe.
- Urgent first: while an urgent taker waits for tokens, bulk takers get only the tokens beyond those. If it does not ask
  again, it is waited for little longer than it was asked to wait.
- A clock that jumps ahead fills the bucket at most; after one that jumps back, time counts from the new value.
"""

import random
from dataclasses import dataclass
from typing import Protocol

from common.messages import Lane


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of a limit, in seconds.

    Attributes:
        burst_s: The bucket holds one token, and the tokens of this time.
        part_s: A taker waits for the tokens of this time at a time, if it wants that many.
        shortest_wait_s: Shortest wait.
        longest_wait_s: Longest wait.
        patience_s: An urgent taker that does not ask again this long after its wait is waited for no more.
    """

    burst_s: float = 0.1
    part_s: float = 0.05
    shortest_wait_s: float = 0.001
    longest_wait_s: float = 1.0
    patience_s: float = 0.25


TIMING = Timing()
# Waits are lengthened by up to this share, so that it is not always the same taker that asks first.
JITTER = 0.1


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
        """Takes up to `wanted` tokens. Unused tokens are not given back."""


def bucket_of(rate: float) -> float:
    """How many tokens a bucket holds."""
    return 1 + TIMING.burst_s * rate


def part_of(rate: float) -> float:
    """How many tokens to wait for at a time."""
    return max(1.0, TIMING.part_s * rate)


def wait_for(time_s: float) -> float:
    """A wait of this time, within the bounds, with jitter."""
    longest_s = TIMING.longest_wait_s / (1 + JITTER)
    return min(longest_s, max(TIMING.shortest_wait_s, time_s)) * random.uniform(1, 1 + JITTER)
