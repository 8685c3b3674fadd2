"""common/ledger/masks.py: sets of seqs as bit masks, against a plain dict."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.ledger.pieces import PIECE_MESSAGES, by_piece
from common.ledger.redis.masks import GAP_WORDS, WORD_MESSAGES, segments, unpack

# Offsets that lie close together, far apart, and at the very ends of a piece.
offsets = st.one_of(
    st.integers(0, PIECE_MESSAGES - 1),
    st.integers(0, 700),
    st.integers(PIECE_MESSAGES - 40, PIECE_MESSAGES - 1),
)
tables = st.dictionaries(offsets, st.tuples(st.integers(1, 3), st.integers(0, 3)), min_size=1, max_size=60)


def columns_of(table: dict[int, tuple[int, int]]) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
    return np.array(list(table), np.int64), [
        np.array([pair[column] for pair in table.values()], np.uint8) for column in (0, 1)
    ]


@given(tables)
def test_segments_hold_what_a_dict_holds(table: dict[int, tuple[int, int]]) -> None:
    """Unpacked where it says it begins, each segment gives back the columns; all else in it is 0."""
    found: dict[int, tuple[int, int]] = {}
    for segment in segments(*columns_of(table)):
        pairs = [unpack(column).tolist() for column in segment.columns]
        touched = {
            segment.first_word * WORD_MESSAGES + k: (first, second)
            for k, (first, second) in enumerate(zip(*pairs, strict=True))
            if first
        }
        assert all(first or not second for first, second in zip(*pairs, strict=True))
        assert segment.messages == len(touched)
        assert not touched.keys() & found.keys()
        found |= touched
    assert found == table


@given(tables)
def test_segments_stay_within_the_piece_in_whole_words(table: dict[int, tuple[int, int]]) -> None:
    """Each column of a segment is whole 32-bit words, all of one length, none beyond the piece's end."""
    for segment in segments(*columns_of(table)):
        (size,) = {len(column) for column in segment.columns}
        assert size % 4 == 0
        assert segment.first_word + size // 4 <= PIECE_MESSAGES // WORD_MESSAGES


@given(tables)
def test_segments_are_cut_at_wide_gaps_only(table: dict[int, tuple[int, int]]) -> None:
    """A segment begins and ends with a touched word and has no more than GAP_WORDS untouched ones in a row."""
    for segment in segments(*columns_of(table)):
        touched = np.flatnonzero(np.frombuffer(segment.columns[0], "<u4"))
        words = len(segment.columns[0]) // 4
        assert (touched[0], touched[-1]) == (0, words - 1)
        assert np.all(np.diff(touched) <= GAP_WORDS)


@pytest.mark.parametrize(("words_apart", "segments_made"), [(1, 1), (GAP_WORDS, 1), (GAP_WORDS + 1, 2)])
def test_where_a_gap_is_wide(words_apart: int, segments_made: int) -> None:
    """A segment is ended where the next touched word is more than GAP_WORDS on."""
    offsets = np.array([5, 5 + WORD_MESSAGES * words_apart])
    assert len(segments(offsets, [np.ones(2, np.uint8)])) == segments_made


def test_a_contiguous_range_is_one_segment() -> None:
    """A fresh batch, the usual case, costs one segment, wherever it begins."""
    seqs = np.arange(1_003, 1_003 + 512)
    (segment,) = segments(seqs, [np.full(512, 2, np.uint8)])
    assert (segment.first_word, segment.messages) == (1_003 // 16, 512)
    assert len(segment.columns[0]) == 4 * (1_514 // 16 - 1_003 // 16 + 1)


def test_the_layout_is_that_of_the_states_in_redis() -> None:
    """Message k stands in bits 2k and 2k+1 of little-endian words, low bit first."""
    (segment,) = segments(np.array([0, 1, 5, 15]), [np.array([1, 2, 3, 2], np.uint8)])
    assert int.from_bytes(segment.columns[0], "little") == 1 | 2 << 2 | 3 << 10 | 2 << 30


@given(st.binary(max_size=64))
def test_unpack_gives_each_pair_of_bits(words: bytes) -> None:
    """Four pairs a byte, the lowest bits first."""
    assert unpack(words).tolist() == [byte >> shift & 3 for byte in words for shift in (0, 2, 4, 6)]


@given(
    st.lists(
        st.one_of(
            st.integers(0, 2**40 - 1),
            st.integers(PIECE_MESSAGES - 5, PIECE_MESSAGES + 5),
            st.integers(3 * PIECE_MESSAGES - 5, 3 * PIECE_MESSAGES + 5),
        ),
        min_size=1,
        max_size=40,
        unique=True,
    )
)
def test_by_piece_covers_each_seq_once(numbers: list[int]) -> None:
    """In whatever order the seqs come, each stands in exactly one piece, its own, and no piece comes twice."""
    seqs = np.array(numbers, np.int64)
    covered: list[int] = []
    pieces: list[int] = []
    for piece, where in by_piece(seqs):
        pieces.append(piece)
        assert {seq // PIECE_MESSAGES for seq in seqs[where].tolist()} == {piece}
        covered += np.arange(seqs.size)[where].tolist()
    assert sorted(covered) == list(range(seqs.size))
    assert len(set(pieces)) == len(pieces)


@pytest.mark.parametrize("first", [0, 100, PIECE_MESSAGES - 8])
def test_seqs_of_one_piece_are_not_copied(first: int) -> None:
    """The usual case costs no fancy indexing: its positions are a slice."""
    ((_, where),) = by_piece(np.arange(first, first + 8))
    assert where == slice(None)
