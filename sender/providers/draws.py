"""Random draws for simulated sends: a hash of (seed, seq, attempt), so a run repeats however it is spread."""

import math

import numpy as np
from numpy.typing import NDArray

from common.messages import Seqs
from common.settings import Distribution

# SplitMix64's increment and finaliser: G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number
# Generators", OOPSLA 2014; constants of the finaliser by D. Stafford, variant 13.
GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
WORD = (1 << 64) - 1

# What a draw is for: streams 1 and 2 decide on the time, this one on the outcome.
OUTCOME_STREAM = 3


def uniforms(seed: int, seqs: Seqs, attempt: int, stream: int) -> NDArray[np.float64]:
    """A uniform number strictly between 0 and 1 for each seq; another stream gives independent ones."""
    key = _mix_one(_mix_one(seed + GOLDEN) + _mix_one((attempt << 8) + stream + 1))
    x = seqs.astype(np.uint64)
    x *= np.uint64(GOLDEN)
    x += np.uint64(key)
    x ^= x >> np.uint64(30)
    x *= np.uint64(MIX_1)
    x ^= x >> np.uint64(27)
    x *= np.uint64(MIX_2)
    x ^= x >> np.uint64(31)
    return ((x >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _mix_one(x: int) -> int:
    x &= WORD
    x = (x ^ x >> 30) * MIX_1 & WORD
    x = (x ^ x >> 27) * MIX_2 & WORD
    return x ^ x >> 31


def processing_times_us(
    seed: int, seqs: Seqs, attempt: int, distribution: Distribution, mean_s: float, stddev_s: float
) -> NDArray[np.int64]:
    """How long each send takes, in microseconds. Negative draws of the normal distribution count as 0."""
    if mean_s == 0 or distribution is Distribution.CONSTANT:
        return np.full(seqs.size, round(mean_s * 1e6), np.int64)
    u = uniforms(seed, seqs, attempt, 1)
    if distribution is Distribution.EXPONENTIAL:
        times_s = -mean_s * np.log(u)
    else:
        # Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958.
        z = np.sqrt(-2 * np.log(u)) * np.cos(2 * math.pi * uniforms(seed, seqs, attempt, 2))
        if distribution is Distribution.NORMAL:
            times_s = np.maximum(mean_s + stddev_s * z, 0)
        else:
            variance = math.log1p((stddev_s / mean_s) ** 2)
            times_s = np.exp(math.log(mean_s) - variance / 2 + math.sqrt(variance) * z)
    return np.rint(times_s * 1e6).astype(np.int64)


def failures(seed: int, seqs: Seqs, attempt: int, rate: float) -> NDArray[np.bool_]:
    """Which sends fail, each with probability `rate`."""
    return uniforms(seed, seqs, attempt, OUTCOME_STREAM) < rate
