"""A run in pieces: parts of 131,072 messages, so that no step with a long run needs much memory or time."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from common.messages import Seqs

PIECE_MESSAGES = 1 << 17


def by_piece(seqs: Seqs) -> Iterator[tuple[int, NDArray[np.intp] | slice]]:
    """The pieces that seqs belong to, each with the positions of its seqs."""
    if seqs.size == 0:
        return
    pieces = seqs // PIECE_MESSAGES
    first = int(pieces[0])
    if bool((pieces == first).all()):
        yield first, slice(None)
        return
    for piece in np.unique(pieces).tolist():
        yield piece, np.flatnonzero(pieces == piece)
