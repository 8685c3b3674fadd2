"""The fates of messages at a mock provider: drawn from its profile, so they repeat with its seed."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from common.messages import Outcome
from sender.providers.profiles import Conditions, Profile

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Fate:
    """The result of one attempt at a message.

    Attributes:
        time_s: How long the provider takes, in seconds.
        outcome: The outcome.
        retry_after_s: The wait that it asks for if it throttles the message, otherwise 0.
    """

    time_s: float
    outcome: Outcome
    retry_after_s: float


class Fates:
    """Draws the fates of messages, the neighbours of a message with it.

    A run's age, for the windows of the profile, counts from its first message. Beyond `runs_kept`, the run that began
    first is forgotten.
    """

    BLOCK = 256

    def __init__(
        self,
        profile: Profile,
        seed: int,
        clock: Clock = time.monotonic,
        blocks_kept: int = 1024,
        runs_kept: int = 100_000,
    ) -> None:
        self._runs_kept = runs_kept
        self._profile = profile
        self._seed = seed
        self._clock = clock
        self._block = functools.lru_cache(blocks_kept)(self._draw)
        self._began_s: dict[str, float] = {}

    def of(self, run: str, seq: int, attempt: int) -> Fate:
        """The fate of an attempt that begins now."""
        now_s = self._clock()
        age_s = now_s - self._began_s.setdefault(run, now_s)
        if len(self._began_s) > self._runs_kept:
            del self._began_s[next(iter(self._began_s))]
        block, place = divmod(seq, self.BLOCK)
        return self._block(self._profile.at(age_s), block, attempt)[place]

    def restart_runs(self) -> None:
        """Forgets when runs began."""
        self._began_s.clear()

    def _draw(self, conditions: Conditions, block: int, attempt: int) -> list[Fate]:
        first = block * self.BLOCK
        seqs = np.arange(first, first + self.BLOCK, dtype=np.int64)
        plays = conditions.draw(self._seed, seqs, attempt)
        times_s = plays.times_us / 1e6
        waits_s = np.zeros(self.BLOCK) if plays.retry_after_s is None else plays.retry_after_s
        columns = times_s.tolist(), map(Outcome, plays.outcomes.tolist()), waits_s.tolist()
        return [Fate(*fate) for fate in zip(*columns, strict=True)]
