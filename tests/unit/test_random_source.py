"""producer/random_source.py: random messages that can be made again."""

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.messages import bad_numbers
from common.publishing.random import CHUNK, LONGEST_TEXT, RandomSource

COUNT = 2 * CHUNK + 100


def test_numbers_are_e164_of_no_country() -> None:
    """Every number is valid, under the code 999 that no country has, so that nobody can be called by mistake."""
    messages = list(RandomSource(COUNT, 1).messages(0))
    assert bad_numbers(messages) == []
    assert all(m.to.startswith("+999") and len(m.to) == 13 for m in messages)


def test_texts_have_1_to_100_characters() -> None:
    """All lengths from 1 to 100 occur, and no other."""
    assert {len(m.text) for m in RandomSource(COUNT, 1).messages(0)} == set(range(1, LONGEST_TEXT + 1))


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, COUNT])
def test_seqs_count_from_0(count: int) -> None:
    """As many messages as asked for, numbered without a gap over chunk borders."""
    assert [m.seq for m in RandomSource(count, 1).messages(0)] == list(range(count))


def test_the_same_seed_gives_the_same_messages() -> None:
    """A run can be made again from its seed; another seed gives other messages."""
    first, again, other = (list(RandomSource(500, seed).messages(0)) for seed in (7, 7, 8))
    assert first == again
    assert not {m.to for m in first} & {m.to for m in other}


def test_a_longer_run_begins_with_the_shorter_one() -> None:
    """What a message is depends on the seed and its seq alone."""
    short = list(RandomSource(CHUNK + 10, 7).messages(0))
    assert list(islice(RandomSource(COUNT, 7).messages(0), CHUNK + 10)) == short


@pytest.mark.parametrize(
    "first", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, COUNT - 1, COUNT]
)
def test_going_on_from_the_middle_gives_the_tail(first: int) -> None:
    """messages(first) equals the tail of messages(0), around every chunk border and at the end."""
    source = RandomSource(COUNT, 3)
    assert list(source.messages(first)) == list(source.messages(0))[first:]


@settings(max_examples=30)
@given(st.integers(0, 2**63 - 1))
def test_any_seed_will_do(seed: int) -> None:
    """From 0 to the largest that SEED takes."""
    assert len(list(RandomSource(3, seed).messages(0))) == 3
