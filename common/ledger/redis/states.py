"""The ledger in Redis: reading the states of messages."""

from collections.abc import AsyncIterator
from functools import partial

import numpy as np
from numpy.typing import NDArray
from redis.asyncio.client import Pipeline

from common import keys
from common.ledger import refusals
from common.ledger.pieces import PIECE_MESSAGES, by_piece
from common.ledger.redis.masks import unpack
from common.ledger.redis.scripts import RedisScripts
from common.messages import Seqs, State


class RedisStates(RedisScripts):
    """Reads the states of messages."""

    async def canceled(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        canceled: NDArray[np.bool_] = await self._pairs(run, keys.canceled(run), seqs) != 0
        return canceled

    async def states(self, run: str, seqs: Seqs) -> NDArray[np.uint8]:
        return await self._pairs(run, keys.states(run), seqs)

    async def _pairs(self, run: str, prefix: str, seqs: Seqs) -> NDArray[np.uint8]:
        """The two bits of each message, from the strings of the pieces. Raises UnknownRun."""
        # A byte has four messages. Of each piece, only the bytes from the first to the last message are read.
        parts = [(piece, at, seqs[at] - piece * PIECE_MESSAGES) for piece, at in by_piece(seqs)]

        def read(pipe: Pipeline) -> None:
            pipe.exists(keys.run(run))
            for piece, _, offsets in parts:
                pipe.getrange(f"{prefix}{piece}", int(offsets.min()) >> 2, int(offsets.max()) >> 2)

        known, *found = await self._read(read)
        if not known:
            raise refusals.unknown_run(run)
        pairs = np.zeros(seqs.size, np.uint8)
        for (_, at, offsets), quads in zip(parts, found, strict=True):
            first = int(offsets.min()) >> 2
            read_pairs = unpack(quads.ljust((int(offsets.max()) >> 2) - first + 1, b"\0"))
            pairs[at] = read_pairs[offsets - (first << 2)]
        return pairs

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
            words = await self._redis.until_answered(partial(self._redis.get, f"{keys.states(run)}{piece}"))
            counts += np.bincount(unpack(words or b""), minlength=4)
            published += (await self._unannounced(run, piece, announced)).size
        by_state = {s.name.lower(): int(counts[s]) for s in (State.SENDING, State.SENT, State.FAILED)}
        return {"published": published, **by_state}

    async def _announced(self, run: str) -> int:
        """How far a run is announced. Raises UnknownRun."""
        started, announced = await self._redis.until_answered(
            lambda: self._redis.hmget(keys.run(run), ["started_us", "announced"])
        )
        if started is None:
            raise refusals.unknown_run(run)
        return int(announced or 0)

    async def _pieces(self, run: str) -> list[int]:
        """The pieces that have a message that was ever claimed."""
        pieces = await self._redis.until_answered(lambda: self._redis.smembers(keys.pieces(run)))
        return sorted(int(piece) for piece in pieces)

    async def _unannounced(self, run: str, piece: int, announced: int) -> Seqs:
        """The seqs of a piece from `announced` on that were counted without an announcement, ascending."""
        base = piece * PIECE_MESSAGES
        if base + PIECE_MESSAGES <= announced:
            return np.zeros(0, np.int64)
        bits = await self._redis.until_answered(lambda: self._redis.get(f"{keys.unannounced(run)}{piece}"))
        counted = base + np.flatnonzero(np.unpackbits(np.frombuffer(bits or b"", np.uint8)))
        return counted[counted >= announced]
