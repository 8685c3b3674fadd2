"""The ledger in Redis: reading the states of messages."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.ledger import refusals
from common.ledger.pieces import PIECE_MESSAGES, by_piece
from common.ledger.redis.masks import WORD_BYTES, WORD_MESSAGES, unpack
from common.ledger.redis.scripts import RedisScripts
from common.messages import Seqs, State


@dataclass(frozen=True, slots=True)
class Words:
    """Words of a piece.

    Attributes:
        key: The key that has them.
        first: The number of the first one.
        count: How many.
    """

    key: str
    first: int
    count: int


class RedisStates(RedisScripts):
    """Reads the states of messages."""

    async def canceled(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        canceled: NDArray[np.bool_] = await self._pairs(run, self._names.canceled(run), seqs) != 0
        return canceled

    async def states(self, run: str, seqs: Seqs) -> NDArray[np.uint8]:
        return await self._pairs(run, self._names.states(run), seqs)

    async def _pairs(self, run: str, prefix: str, seqs: Seqs) -> NDArray[np.uint8]:
        """The two bits of each message, from the words of the pieces. Raises UnknownRun."""
        parts = [(piece, at, seqs[at] - piece * PIECE_MESSAGES) for piece, at in by_piece(seqs)]
        asked = []
        for piece, _, offsets in parts:
            first_word, last_word = (int(at) // WORD_MESSAGES for at in (offsets.min(), offsets.max()))
            asked.append(Words(f"{prefix}{piece}", first_word, last_word - first_word + 1))
        pairs = np.zeros(seqs.size, np.uint8)
        found = await self._words(run, asked)
        for (_, at, offsets), words, packed in zip(parts, asked, found, strict=True):
            pairs[at] = unpack(packed)[offsets - words.first * WORD_MESSAGES]
        return pairs

    async def _words(self, run: str, asked: Sequence[Words]) -> list[bytes]:
        """Some words of a run. Raises UnknownRun."""
        names = [self._names.run(run), *(words.key for words in asked)]
        args = [number for words in asked for number in (words.first, words.count * WORD_BYTES)]
        known, *answers = await self._call("words", names, args)
        if not known:
            raise refusals.unknown_run(run)
        found: list[bytes] = answers
        return found

    async def unsettled(self, run: str) -> AsyncIterator[Seqs]:
        announced = await self._announced(run)
        for piece in sorted({*range(-(-announced // PIECE_MESSAGES)), *await self._pieces(run)}):
            base = piece * PIECE_MESSAGES
            seqs = np.arange(base, min(base + PIECE_MESSAGES, announced))
            seqs = np.concatenate([seqs, await self._unannounced(run, piece, announced)])
            seqs = seqs[await self.states(run, seqs) < State.SENT]
            if seqs.size:
                yield seqs

    async def recount(self, run: str) -> dict[str, int]:
        published = announced = await self._announced(run)
        counts = np.zeros(4, np.int64)
        for piece in await self._pieces(run):
            (words,) = await self._words(run, [_all_words(self._names.states(run), piece)])
            counts += np.bincount(unpack(words), minlength=4)
            published += (await self._unannounced(run, piece, announced)).size
        by_state = {s.name.lower(): int(counts[s]) for s in (State.SENDING, State.SENT, State.FAILED)}
        return {"published": published, **by_state}

    async def _announced(self, run: str) -> int:
        """How far a run is announced. Raises UnknownRun."""
        started, announced = await self._redis.until_answered(
            lambda: self._redis.hmget(self._names.run(run), ["started_us", "announced"])
        )
        if started is None:
            raise refusals.unknown_run(run)
        return int(announced or 0)

    async def _pieces(self, run: str) -> list[int]:
        """The pieces that have a message that was ever claimed."""
        pieces = await self._redis.until_answered(lambda: self._redis.smembers(self._names.pieces(run)))
        return sorted(int(piece) for piece in pieces)

    async def _unannounced(self, run: str, piece: int, announced: int) -> Seqs:
        """The seqs of a piece from `announced` on that were counted without an announcement, ascending."""
        base = piece * PIECE_MESSAGES
        if base + PIECE_MESSAGES <= announced:
            return np.zeros(0, np.int64)
        (words,) = await self._words(run, [_all_words(self._names.unannounced(run), piece)])
        counted = base + np.flatnonzero(unpack(words))
        return counted[counted >= announced]


def _all_words(prefix: str, piece: int) -> Words:
    return Words(f"{prefix}{piece}", first=0, count=PIECE_MESSAGES // WORD_MESSAGES)
