"""Finds rows that repeat an earlier row, in flat memory for any number of rows: by hashes, which are sorted on disk."""

import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_PAIR = np.dtype([("hash", np.int64), ("line", np.int64)])
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1

Pairs = NDArray[np.void]
Lines = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes that the search keeps within.

    Attributes:
        block: Rows that are sorted in memory.
    """

    block: int = 1 << 19


LIMITS = Limits()


class Repeats:
    """Takes rows in the order of the file, as a hash of 64 bits and a line; finds those that repeat an earlier one.

    Two rows that differ have the same hash with a probability of 3e-6 in a file of ten million rows.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._hashes, self._lines = array("q"), array("q")
        self._kept: list[Pairs] = []
        self._file: BinaryIO | None = None

    def add(self, line: int, content: tuple[str, str]) -> None:
        """Adds a row, whose number and text are its content."""
        self._hashes.append(hash(content))
        self._lines.append(line)
        if len(self._lines) == self._limits.block:
            self._keep(self._sorted_block())

    def lines(self) -> Iterator[Lines]:
        """The lines of the rows that repeat an earlier one, in arrays, in no order."""
        blocks = [*self._kept, self._sorted_block()]
        edges = np.linspace(_LOWEST, _HIGHEST, len(blocks) + 1)[1:-1].astype(np.int64)
        bounds = [[0, *np.searchsorted(block["hash"], edges), len(block)] for block in blocks]
        for piece in range(len(blocks)):
            parts = [block[at[piece] : at[piece + 1]] for block, at in zip(blocks, bounds, strict=True)]
            yield _repeated(np.concatenate(parts))
        if self._file is not None:
            self._file.close()

    def _sorted_block(self) -> Pairs:
        """The rows in memory, by hash, and by line where hashes are equal. Removes them."""
        pairs = np.empty(len(self._lines), _PAIR)
        pairs["hash"], pairs["line"] = self._hashes, self._lines
        del self._hashes[:], self._lines[:]
        return pairs[np.argsort(pairs["hash"], kind="stable")]

    def _keep(self, block: Pairs) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - kept until the search ends
        start = self._file.seek(0, 2)
        block.tofile(self._file)
        self._kept.append(np.memmap(self._file, _PAIR, "r", offset=start, shape=len(block)))


def _repeated(pairs: Pairs) -> Lines:
    """The lines of all but the first row of each hash. Rows with equal hashes are in the order of their lines."""
    ordered = pairs[np.argsort(pairs["hash"], kind="stable")]
    again = ordered["hash"][1:] == ordered["hash"][:-1]
    lines: Lines = ordered["line"][1:][again]
    return lines
