"""Random draws for simulated sends: a hash of (seed, seq, attempt), so a run repeats however it is distributed."""

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from common.messages import Seqs
from common.settings import Distribution

Floats = NDArray[np.float64]


class Stream(IntEnum):
    """The independent random numbers of a send, by their use."""

    TIME = 1
    TIME_ANGLE = 2
    OUTCOME = 3


class SplitMix64:
    """The random number generator SplitMix64: its increment and its finalizer.

    G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014. The constants of the
    finalizer are D. Stafford's variant 13.
    """

    INCREMENT = 0x9E3779B97F4A7C15
    FACTOR_1 = 0xBF58476D1CE4E5B9
    FACTOR_2 = 0x94D049BB133111EB
    WORD = (1 << 64) - 1

    @classmethod
    def mix(cls, x: int) -> int:
        """The finalizer, on one number."""
        x &= cls.WORD
        x = (x ^ x >> 30) * cls.FACTOR_1 & cls.WORD
        x = (x ^ x >> 27) * cls.FACTOR_2 & cls.WORD
        return x ^ x >> 31

    @classmethod
    def mix_in_place(cls, x: NDArray[np.uint64]) -> None:
        """The finalizer, on each number of an array."""
        x ^= x >> np.uint64(30)
        x *= np.uint64(cls.FACTOR_1)
        x ^= x >> np.uint64(27)
        x *= np.uint64(cls.FACTOR_2)
        x ^= x >> np.uint64(31)


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of one attempt at some messages.

    Attributes:
        seed: The seed.
        seqs: The seqs of the messages.
        attempt: The number of the attempt, from 1.
    """

    seed: int
    seqs: Seqs
    attempt: int

    def uniforms(self, stream: int) -> Floats:
        """A uniform number strictly between 0 and 1 for each seq; other streams give independent ones."""
        x = self.seqs.astype(np.uint64)
        x *= np.uint64(SplitMix64.INCREMENT)
        x += np.uint64(self._key(stream))
        SplitMix64.mix_in_place(x)
        # The upper 52 bits, at the middle of their interval: never 0 or 1.
        return ((x >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52

    def times_us(self, distribution: Distribution, mean_s: float, stddev_s: float) -> NDArray[np.int64]:
        """The time of each send, in microseconds. Negative draws of the normal distribution count as 0."""
        if mean_s == 0 or distribution is Distribution.CONSTANT:
            return np.full(self.seqs.size, round(mean_s * 1e6), np.int64)
        if distribution is Distribution.EXPONENTIAL:
            times_s = -mean_s * np.log(self.uniforms(Stream.TIME))
        elif distribution is Distribution.NORMAL:
            times_s = np.maximum(mean_s + stddev_s * self._normal(), 0)
        else:
            times_s = self._lognormal(mean_s, stddev_s)
        return np.rint(times_s * 1e6).astype(np.int64)

    def _key(self, stream: int) -> int:
        seed = SplitMix64.mix(self.seed + SplitMix64.INCREMENT)
        use = SplitMix64.mix((self.attempt << 8) + stream + 1)
        return SplitMix64.mix(seed + use)

    def _normal(self) -> Floats:
        """Standard normal numbers: G. Box, M. Muller, "A Note on the Generation of Random Normal Deviates", 1958."""
        radius: Floats = np.sqrt(-2 * np.log(self.uniforms(Stream.TIME)))
        angle = 2 * math.pi * self.uniforms(Stream.TIME_ANGLE)
        return radius * np.cos(angle)

    def _lognormal(self, mean_s: float, stddev_s: float) -> Floats:
        variance = math.log1p((stddev_s / mean_s) ** 2)
        mean = math.log(mean_s) - variance / 2
        return np.exp(mean + math.sqrt(variance) * self._normal())
