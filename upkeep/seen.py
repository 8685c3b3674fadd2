"""A set of messages that takes little memory, whether it has few messages of a run or many."""

import numpy as np
from numpy.typing import NDArray

from common.ledger.pieces import PIECE_MESSAGES, by_piece
from common.messages import Seqs

# A piece with more messages than this has a bit for each message that it could have (16 KiB).
DENSE = 1_000


class Seen:
    """Messages, by run and seq."""

    def __init__(self) -> None:
        self._few: dict[tuple[str, int], set[int]] = {}
        self._many: dict[tuple[str, int], NDArray[np.uint8]] = {}

    def add(self, run: str, seqs: Seqs) -> None:
        """Adds messages of a run."""
        for piece, at in by_piece(seqs):
            self._add((run, piece), seqs[at] - piece * PIECE_MESSAGES)

    def has(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        """Which of some messages of a run are in the set."""
        found = np.zeros(seqs.size, np.bool_)
        for piece, at in by_piece(seqs):
            offsets = seqs[at] - piece * PIECE_MESSAGES
            if (bits := self._many.get((run, piece))) is not None:
                found[at] = (bits[offsets >> 3] >> (offsets & 7)) & 1 == 1
            elif few := self._few.get((run, piece)):
                found[at] = [offset in few for offset in offsets.tolist()]
        return found

    def _add(self, piece: tuple[str, int], offsets: Seqs) -> None:
        if piece not in self._many:
            few = self._few.setdefault(piece, set())
            few.update(offsets.tolist())
            if len(few) <= DENSE:
                return
            offsets = np.array(list(self._few.pop(piece)), np.int64)
            self._many[piece] = np.zeros(PIECE_MESSAGES // 8, np.uint8)
        np.bitwise_or.at(self._many[piece], offsets >> 3, (1 << (offsets & 7)).astype(np.uint8))
