"""Random messages: a number that is assigned to nobody and up to 100 random characters, made from a seed."""

import string
from collections.abc import Iterator

import numpy as np

from common.messages import Lane, Message
from common.publishing.recipes import Recipe

# Messages are drawn in chunks of this size: a change would change the messages of a seed.
CHUNK = 4096
LONGEST_TEXT = 100
ALPHABET = string.ascii_letters + string.digits + " .,!?"
# Country code 999 is assigned to no country (ITU-T E.164, list of assigned codes), so no one can be called by mistake.
LOWEST_NUMBER = 999_000_000_000
HIGHEST_NUMBER = 999_999_999_999
# Texts are slices of a pool of random characters, which is drawn from a stream of its own.
POOL_CHARACTERS = 1 << 16
POOL_STREAM = (1 << 64) - 1


class RandomSource:
    """`count` random messages; the same ones for the same seed."""

    NAME = "random"

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self._seed = seed

    def recipe(self, batch_size: int, lane: Lane) -> Recipe:
        return Recipe(source=self.NAME, count=self.count, batch_size=batch_size, lane=lane, seed=self._seed)

    def messages(self, first: int) -> Iterator[Message]:
        pool = self._pool()
        for chunk in range(first // CHUNK, -(-self.count // CHUNK)):
            base = chunk * CHUNK
            wanted = slice(max(first - base, 0), min(CHUNK, self.count - base))
            numbers, texts = self._drawn(chunk, pool, wanted)
            yield from map(Message, range(base + wanted.start, base + wanted.stop), numbers, texts)

    def _pool(self) -> str:
        letters = np.array(list(ALPHABET))
        return "".join(letters[self._generator(POOL_STREAM).integers(0, len(ALPHABET), POOL_CHARACTERS)])

    def _drawn(self, chunk: int, pool: str, wanted: slice) -> tuple[list[str], list[str]]:
        """The numbers and the texts of some messages of a chunk."""
        draw = self._generator(chunk)
        numbers = draw.integers(LOWEST_NUMBER, HIGHEST_NUMBER, CHUNK, endpoint=True)
        lengths = draw.integers(1, LONGEST_TEXT, CHUNK, endpoint=True)
        starts = draw.integers(0, POOL_CHARACTERS - LONGEST_TEXT, CHUNK)
        begins, ends = starts[wanted].tolist(), (starts + lengths)[wanted].tolist()
        texts = [pool[begin:end] for begin, end in zip(begins, ends, strict=True)]
        return [f"+{number}" for number in numbers[wanted].tolist()], texts

    def _generator(self, stream: int) -> np.random.Generator:
        """An independent generator for each stream: the counter-based Philox, keyed by seed and stream."""
        return np.random.Generator(np.random.Philox(key=np.array([self._seed, stream], np.uint64)))
