"""A set of messages, small where they are few and where they are many: which of them were seen in a queue."""

import numpy as np
from numpy.typing import NDArray

from common.ledger.pieces import PIECE_MESSAGES, by_piece
from common.messages import Seqs

# With more than this many messages, a piece is a bit for each that it could have (16 KiB).
DENSE = 1_000


class Seen:
    """Messages, by run and seq."""

    def __init__(self) -> None:
        self._few: dict[tuple[str, int], set[int]] = {}
        self._many: dict[tuple[str, int], NDArray[np.uint8]] = {}

    def add(self, run: str, seqs: Seqs) -> None:
        """Adds messages of a run."""
        for piece, at in by_piece(seqs):
            key, offsets = (run, piece), seqs[at] - piece * PIECE_MESSAGES
            if key not in self._many:
                few = self._few.setdefault(key, set())
                few.update(offsets.tolist())
                if len(few) <= DENSE:
                    continue
                offsets = np.array(list(self._few.pop(key)), np.int64)
                self._many[key] = np.zeros(PIECE_MESSAGES // 8, np.uint8)
            np.bitwise_or.at(self._many[key], offsets >> 3, (1 << (offsets & 7)).astype(np.uint8))

    def has(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        """Which of some messages of a run are in it."""
        found = np.zeros(seqs.size, np.bool_)
        for piece, at in by_piece(seqs):
            offsets = seqs[at] - piece * PIECE_MESSAGES
            if (bits := self._many.get((run, piece))) is not None:
                found[at] = (bits[offsets >> 3] >> (offsets & 7)) & 1 == 1
            elif few := self._few.get((run, piece)):
                found[at] = [offset in few for offset in offsets.tolist()]
        return found
