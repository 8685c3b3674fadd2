"""Finds rows that repeat an earlier row, in flat memory for any number of rows: by hashes, which are sorted on disk."""

import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_PAIR = np.dtype([("hash", np.int64), ("line", np.int64)])
# The search goes through the hashes in ranges. A range of all blocks fits in memory.
_RANGES = 256
_EDGES = np.arange(1, _RANGES, dtype=np.int64) * (2**64 // _RANGES) + np.int64(-(2**63))

Pairs = NDArray[np.void]
Lines = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes that the search keeps within.

    Attributes:
        block: Rows that are sorted in memory.
    """

    block: int = 1 << 18


LIMITS = Limits()


class Repeats:
    """Takes rows in the order of the file, as a hash of 64 bits and a line; finds those that repeat an earlier one.

    Two rows that differ have the same hash with a probability of 3e-6 in a file of ten million rows.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._hashes, self._lines = array("q"), array("q")
        self._file: BinaryIO | None = None
        # The places in the file where the ranges of each block begin, and the end of the block.
        self._bounds: list[list[int]] = []

    def add(self, line: int, content: tuple[str, str]) -> None:
        """Adds a row, whose number and text are its content."""
        self._hashes.append(hash(content))
        self._lines.append(line)
        if len(self._lines) == self._limits.block:
            self._keep(self._sorted_block())

    def lines(self) -> Iterator[Lines]:
        """The lines of the rows that repeat an earlier one, in arrays, in no order. To be called once."""
        last = self._sorted_block()
        if self._file is None:
            yield _repeated(last)
            return
        self._keep(last)
        with self._file:
            for i in range(_RANGES):
                parts = [self._read(self._file, bounds[i], bounds[i + 1]) for bounds in self._bounds]
                yield _repeated(np.concatenate(parts))

    def _sorted_block(self) -> Pairs:
        """The rows in memory, by hash, and by line where hashes are equal. Removes them."""
        pairs = np.empty(len(self._lines), _PAIR)
        pairs["hash"], pairs["line"] = self._hashes, self._lines
        del self._hashes[:], self._lines[:]
        return pairs[np.argsort(pairs["hash"], kind="stable")]

    def _keep(self, block: Pairs) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `lines` closes it
        start = self._bounds[-1][-1] if self._bounds else 0
        ends = [0, *np.searchsorted(block["hash"], _EDGES).tolist(), len(block)]
        self._bounds.append([start + end for end in ends])
        self._file.write(block.tobytes())

    def _read(self, file: BinaryIO, start: int, end: int) -> Pairs:
        file.seek(start * _PAIR.itemsize)
        return np.frombuffer(file.read((end - start) * _PAIR.itemsize), _PAIR)


def _repeated(pairs: Pairs) -> Lines:
    """The lines of all but the first row of each hash. Rows with equal hashes are in the order of their lines."""
    ordered = pairs[np.argsort(pairs["hash"], kind="stable")]
    again = ordered["hash"][1:] == ordered["hash"][:-1]
    lines: Lines = ordered["line"][1:][again]
    return lines
