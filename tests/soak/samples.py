"""Memory and open files of processes over time, and their trends."""

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field

import psutil

# The first quarter of a process's samples is its warm-up: imports, pools, caches, first garbage collections.
WARM_UP = 0.25
MB = 1e6
# A pool opens a further connection when calls coincide. More than this many is a leak.
FEW_FDS = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment.

    Attributes:
        at_s: Seconds since the beginning.
        rss: Resident bytes.
        fds: Open file descriptors.
    """

    at_s: float
    rss: int
    fds: int


@dataclass(frozen=True, slots=True)
class Trend:
    """The trend of one process after its warm-up.

    Attributes:
        samples: The number of samples.
        hours: The time that they span.
        rss_mb: The median of the resident memory.
        rss_highest_mb: Its maximum.
        rss_mb_per_hour: Its slope.
        fds_first_third: The least and the most open files in the first third.
        fds_last_third: The least and the most open files in the last third.
    """

    samples: int
    hours: float
    rss_mb: float
    rss_highest_mb: float
    rss_mb_per_hour: float
    fds_first_third: tuple[int, int]
    fds_last_third: tuple[int, int]

    @property
    def fds_grow(self) -> bool:
        """Whether the least number in the last third exceeds the most in the first third by more than a few."""
        return self.fds_last_third[0] > self.fds_first_third[1] + FEW_FDS


def trend(samples: list[Sample]) -> Trend | None:
    """The trend of a process's samples, with the slope by least squares; None if there are too few."""
    warm = samples[int(len(samples) * WARM_UP) :]
    third = len(warm) // 3
    if third == 0:
        return None
    hours = [sample.at_s / 3600 for sample in warm]
    rss = [sample.rss / MB for sample in warm]
    first = [sample.fds for sample in warm[:third]]
    last = [sample.fds for sample in warm[-third:]]
    return Trend(
        samples=len(warm),
        hours=hours[-1] - hours[0],
        rss_mb=statistics.median(rss),
        rss_highest_mb=max(rss),
        rss_mb_per_hour=statistics.linear_regression(hours, rss).slope,
        fds_first_third=(min(first), max(first)),
        fds_last_third=(min(last), max(last)),
    )


@dataclass
class Sampler:
    """Takes samples of named processes, each with its child processes."""

    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    _began_s: float = field(default_factory=time.monotonic)

    def take(self, name: str, pid: int) -> None:
        """Adds a sample, if the process is alive."""
        try:
            process = psutil.Process(pid)
            family = [process, *process.children(recursive=True)]
            rss = sum(one.memory_info().rss for one in family)
            fds = sum(one.num_fds() for one in family)
        except psutil.NoSuchProcess:
            return
        self.samples[name].append(Sample(time.monotonic() - self._began_s, rss, fds))

    def trends(self) -> dict[str, Trend]:
        """The trend of each process with enough samples."""
        found = {name: trend(samples) for name, samples in self.samples.items()}
        return {name: one for name, one in found.items() if one is not None}
