"""Random messages: a number that belongs to nobody and up to 100 random characters, made in chunks from a seed."""

import string
from collections.abc import Iterator

import numpy as np

from common.messages import Lane, Message
from common.publishing.recipes import Recipe

CHUNK = 4096
LONGEST_TEXT = 100
POOL_CHARACTERS = 1 << 16
ALPHABET = string.ascii_letters + string.digits + " .,!?"
# Country code 999 is assigned to no country (ITU-T E.164, list of assigned codes), so no one can be called by mistake.
LOWEST_NUMBER = 999_000_000_000
HIGHEST_NUMBER = 999_999_999_999
POOL_STREAM = (1 << 64) - 1


class RandomSource:
    """`count` random messages; the same for the same seed."""

    NAME = "random"

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self._seed = seed

    def recipe(self, batch_size: int, lane: Lane) -> Recipe:
        return Recipe(source=self.NAME, count=self.count, batch_size=batch_size, lane=lane, seed=self._seed)

    def messages(self, first: int) -> Iterator[Message]:
        letters = np.array(list(ALPHABET))
        pool = "".join(letters[self._generator(POOL_STREAM).integers(0, len(ALPHABET), POOL_CHARACTERS)])
        for chunk in range(first // CHUNK, -(-self.count // CHUNK)):
            base = chunk * CHUNK
            skip, size = max(first - base, 0), min(CHUNK, self.count - base)
            draw = self._generator(chunk)
            numbers = draw.integers(LOWEST_NUMBER, HIGHEST_NUMBER, CHUNK, endpoint=True).tolist()
            lengths = draw.integers(1, LONGEST_TEXT, CHUNK, endpoint=True)
            starts = draw.integers(0, POOL_CHARACTERS - LONGEST_TEXT, CHUNK)
            ends = (starts + lengths).tolist()
            begins = starts.tolist()
            to = [f"+{number}" for number in numbers[skip:size]]
            texts = [pool[i:j] for i, j in zip(begins[skip:size], ends[skip:size], strict=True)]
            yield from map(Message, range(base + skip, base + size), to, texts)

    def _generator(self, stream: int) -> np.random.Generator:
        """An independent generator for each stream: the counter-based Philox, keyed by seed and stream."""
        return np.random.Generator(np.random.Philox(key=np.array([self._seed, stream], np.uint64)))
