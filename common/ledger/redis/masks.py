"""Sets of seqs as bit masks: the form in which states are sent to Redis and back.

The state of a message takes two bits, low bit first. Message k of a piece has bits 2k and 2k+1 of the string of the
piece, read as little-endian words of 32 bits, 16 messages a word. The string of a piece is at most 32 KiB long, so no
call blocks Redis for long. Where no message is announced, the piece is a hash of blocks of 256 messages instead, so
that a stray seq takes little memory.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.messages import Seqs

WORD_MESSAGES = 16
WORD_BYTES = 4
# A segment ends at this many untouched words in a row: sending more of them costs more than another segment.
GAP_WORDS = 16

Pairs = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Segment:
    """Adjacent words of one piece.

    Attributes:
        messages: How many messages it touches.
        columns: The words of each column, as bytes.
    """

    first_word: int
    messages: int
    columns: tuple[bytes, ...]


def segments(offsets: Seqs, columns: list[Pairs]) -> list[Segment]:
    """The words that hold some messages, with the two bits of each column at the place of its message.

    `offsets` are those of the messages in their piece, each once. The first column is non-zero for each of them: it
    shows which words are touched.
    """
    base = (int(offsets.min()) >> 4) << 4
    words = ((int(offsets.max()) - base) >> 4) + 1
    at = offsets - base
    packed = [_pack(at, column, words) for column in columns]
    touched = np.flatnonzero(packed[0])
    breaks = np.flatnonzero(np.diff(touched) > GAP_WORDS)
    if breaks.size == 0:
        return [Segment(base >> 4, offsets.size, tuple(p.tobytes() for p in packed))]
    # Where the segments begin and end, and how many messages are before each word.
    starts = touched[np.concatenate([[0], breaks + 1])].tolist()
    ends = (touched[np.concatenate([breaks, [touched.size - 1]])] + 1).tolist()
    before = np.concatenate([[0], np.cumsum(np.bincount(at >> 4, minlength=words))])
    found = []
    for start, end in zip(starts, ends, strict=True):
        columns_of = tuple(one[start:end].tobytes() for one in packed)
        found.append(Segment((base >> 4) + start, int(before[end] - before[start]), columns_of))
    return found


def unpack(words: bytes) -> Pairs:
    """The two bits of each message in some words."""
    quads = np.frombuffer(words, np.uint8)
    return np.stack([quads & 3, quads >> 2 & 3, quads >> 4 & 3, quads >> 6], axis=1).reshape(-1)


def pairs_at(offsets: Seqs, parts: list[Segment], answers: list[bytes]) -> Pairs:
    """The two bits of each message, read from the words of each segment; 0 where a segment has no words."""
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
