"""The conditions of a provider at one time: the times and outcomes of sends are drawn from them."""

import math
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from common.messages import Outcome, Seqs
from common.settings import Distribution
from sender.providers.draws import Draws, Stream

RETRY = np.uint8(Outcome.RETRY)
FAILED = np.uint8(Outcome.FAILED)
SENT = np.uint8(Outcome.SENT)

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]
Wait = Annotated[float, Meta(ge=0, le=512)]  # the longest retry queue there is, in seconds


@dataclass(frozen=True, eq=False, slots=True)
class Plays:
    """The results of some sends: arrays of one length, in the order of the seqs.

    Attributes:
        times_us: How long each send took, in microseconds.
        outcomes: The outcome of each, a value of `Outcome`.
        retry_after_s: The shortest wait before another attempt of each, 0 for none. None if the provider throttles no
            send.
    """

    times_us: NDArray[np.int64]
    outcomes: NDArray[np.uint8]
    retry_after_s: NDArray[np.float32] | None


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a provider behaves at one time. Shares are of all sends; the rest is sent.

    Attributes:
        mean_s: Mean time of a send, in seconds.
        stddev_s: Its standard deviation, in seconds; a tenth of the mean unless given.
        distribution: Distribution of the time.
        failed: Share of sends that fail finally.
        retry: Share of sends that fail temporarily.
        throttled: Share of sends that are refused as too many, in a tenth of the time.
        retry_after_s: The wait that a throttled send asks for, in seconds.
    """

    mean_s: Seconds
    stddev_s: Seconds | None = None
    distribution: Distribution = Distribution.NORMAL
    failed: Share = 0.0
    retry: Share = 0.0
    throttled: Share = 0.0
    retry_after_s: Wait = 1.0

    def __post_init__(self) -> None:
        if self._not_sent > 1:
            raise ValueError("failed, retry and throttled together are more than 1")

    @property
    def _not_sent(self) -> float:
        # A plain sum makes 0.33 + 0.56 + 0.11 a little more than 1.
        return math.fsum((self.retry, self.throttled, self.failed))

    def draw(self, seed: int, seqs: Seqs, attempt: int) -> Plays:
        """Draws the results of an attempt at these messages: always the same for the same (seed, seq, attempt)."""
        draws = Draws(seed, seqs, attempt)
        stddev_s = self.mean_s / 10 if self.stddev_s is None else self.stddev_s
        times_us = draws.times_us(self.distribution, self.mean_s, stddev_s)
        u = draws.uniforms(Stream.OUTCOME)
        outcomes = self._outcomes(u)
        if not self.throttled:
            return Plays(times_us, outcomes, None)
        throttled = (u >= self.retry) & (u < self.retry + self.throttled)
        times_us = np.where(throttled, times_us // 10, times_us)
        retry_after_s = np.where(throttled, np.float32(self.retry_after_s), np.float32(0))
        return Plays(times_us, outcomes, retry_after_s)

    def _outcomes(self, u: NDArray[np.float64]) -> NDArray[np.uint8]:
        """The outcomes for numbers from 0 to 1: first those to be retried, then failed, then sent."""
        retried = u < self.retry + self.throttled
        if not self.failed:
            return np.where(retried, RETRY, SENT)
        others = np.where(u < self._not_sent, FAILED, SENT)
        return np.where(retried, RETRY, others)
