"""Sets of seqs as bit masks, the form in which the ledger's states travel to Redis and back.

A message's state takes two bits, low bit first: message k of a piece stands in bits 2k and 2k+1 of the piece's
string, read as little-endian words of 32 bits, 16 messages a word. A piece has 131,072 messages (32 KiB), so that
no call holds Redis for long, and a stray seq opens little memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.messages import Seqs

PIECE_MESSAGES = 1 << 17
WORD_MESSAGES = 16
# Untouched words in a row that end a segment: sending them along would cost more than a segment's own overhead.
GAP_WORDS = 16

Pairs = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of words of one piece: where it begins, how many messages it touches, and its columns as bytes."""

    first_word: int
    messages: int
    columns: tuple[bytes, ...]


def by_piece(seqs: Seqs) -> Iterator[tuple[int, NDArray[np.intp] | slice]]:
    """The pieces that seqs fall into, each with the positions of its seqs."""
    if seqs.size == 0:
        return
    pieces = seqs >> 17
    first = int(pieces[0])
    if bool((pieces == first).all()):
        yield first, slice(None)
        return
    for piece in np.unique(pieces).tolist():
        yield piece, np.flatnonzero(pieces == piece)


def segments(offsets: Seqs, columns: list[Pairs]) -> list[Segment]:
    """The touched words around offsets into a piece, each column's pair of bits put where its message stands.

    `offsets` are distinct; the first column is non-zero for each of them, since it tells the touched words.
    """
    base = (int(offsets.min()) >> 4) << 4
    words = ((int(offsets.max()) - base) >> 4) + 1
    at = offsets - base
    packed = [_pack(at, column, words) for column in columns]
    touched = np.flatnonzero(packed[0])
    breaks = np.flatnonzero(np.diff(touched) > GAP_WORDS)
    if breaks.size == 0:
        return [Segment(base >> 4, offsets.size, tuple(p.tobytes() for p in packed))]
    starts = touched[np.concatenate([[0], breaks + 1])].tolist()
    ends = (touched[np.concatenate([breaks, [touched.size - 1]])] + 1).tolist()
    counts = np.cumsum(np.bincount(at >> 4, minlength=words + 1))
    before = [int(counts[s - 1]) if s else 0 for s in starts]
    return [
        Segment((base >> 4) + s, int(counts[e - 1]) - b, tuple(p[s:e].tobytes() for p in packed))
        for s, e, b in zip(starts, ends, before, strict=True)
    ]


def unpack(words: bytes) -> Pairs:
    """The pairs of bits in words, one a message."""
    quads = np.frombuffer(words, np.uint8)
    return np.stack([quads & 3, quads >> 2 & 3, quads >> 4 & 3, quads >> 6], axis=1).reshape(-1)


def pairs_at(offsets: Seqs, parts: list[Segment], answers: list[bytes]) -> Pairs:
    """The pair of each offset, read from the words that were given for each segment; 0 where there are none."""
    pairs = np.zeros(offsets.size, np.uint8)
    for part, words in zip(parts, answers, strict=True):
        if words:
            first = part.first_word * WORD_MESSAGES
            found = unpack(words)
            inside = (offsets >= first) & (offsets < first + found.size)
            pairs[inside] = found[offsets[inside] - first]
    return pairs


def _pack(at: Seqs, column: Pairs, words: int) -> NDArray[np.uint32]:
    pairs = np.zeros(words * WORD_MESSAGES, np.uint8)
    pairs[at] = column
    quads = pairs.reshape(-1, 4)
    return (quads[:, 0] | quads[:, 1] << 2 | quads[:, 2] << 4 | quads[:, 3] << 6).view("<u4")
