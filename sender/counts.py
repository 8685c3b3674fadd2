"""Counts what a sender's sends came to: a handful of NumPy calls for thousands of them, nothing for each one."""

import numpy as np
from numpy.typing import NDArray

from common.messages import Outcome

# Times in microseconds fit into so many octaves, outcomes into so many values.
_OCTAVES, _VALUES = 64, 4


class SendCounts:
    """Sends that ended and are recorded, by outcome and by time. A message that is sent twice counts twice."""

    def __init__(self) -> None:
        self._counts = np.zeros((_OCTAVES, _VALUES), np.int64)
        self.total_time_us = 0

    def add(self, outcomes: NDArray[np.uint8], times_us: NDArray[np.int64], total_time_us: int) -> None:
        """Some more sends: arrays of one length, and the sum of their times."""
        cells = np.log2(times_us + 1.0).astype(np.intp)
        cells *= _VALUES
        cells += outcomes
        self._counts += np.bincount(cells, minlength=self._counts.size).reshape(self._counts.shape)
        self.total_time_us += total_time_us

    def of(self, outcome: Outcome) -> int:
        """How many had this outcome."""
        return int(self._counts[:, outcome].sum())

    def octaves(self) -> dict[int, int]:
        """How many took 2**k to 2**(k + 1) microseconds, by k; empty octaves are left out."""
        counts = self._counts.sum(axis=1)
        filled = np.flatnonzero(counts)
        return dict(zip(filled.tolist(), counts[filled].tolist(), strict=True))
