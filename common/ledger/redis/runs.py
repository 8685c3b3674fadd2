"""The ledger in Redis: runs."""

import secrets
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from redis.asyncio.client import Pipeline

from common.ledger import refusals
from common.ledger.pieces import PIECE_MESSAGES, by_piece
from common.ledger.redis.scripts import RedisScripts, unix_us
from common.ledger.values import Publication
from common.messages import Seqs


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one call may do, so that none blocks Redis for long.

    Attributes:
        marks: Messages that are marked.
        names: Names of runs that are checked.
        expired_names: Names that each look at the newest runs checks besides, to remove expired ones.
    """

    marks: int = 5_000
    names: int = 1_000
    expired_names: int = 100


LIMITS = Limits()


class RedisRuns(RedisScripts):
    """Runs: how they begin, how far they are published, and how they end."""

    # Where the search for expired runs continues.
    _expired_from = 0

    async def begin(self, run: str, recipe: str, total: int, producer: str) -> None:
        begin_keys = [self._names.run(run), self._names.runs, self._names.stats, self._names.forgotten(run)]
        if not await self._call("begin", begin_keys, [run, recipe, total, producer]):
            raise refusals.run_exists(run)

    async def resume(self, run: str, producer: str) -> Publication:
        silence_us = int(self._timing.producer_silence_s * 1e6)
        answer = await self._call("resume", [self._names.run(run)], [producer, silence_us])
        if not answer:
            raise refusals.unknown_run(run)
        if len(answer) == 1:
            raise refusals.run_busy(run, answer[0].decode())
        recipe, total, announced, confirmed = answer
        return Publication(
            recipe=recipe.decode(), total=total, announced=announced, confirmed=confirmed, publishing=True
        )

    async def leave(self, run: str, producer: str) -> None:
        await self._call("leave", [self._names.run(run)], [producer])

    async def announce(self, run: str, first: int, count: int) -> None:
        answer = await self._call(
            "announce",
            [self._names.stats, self._names.run(run), self._names.runs],
            [run, first, count, PIECE_MESSAGES],
        )
        if answer == -2:
            raise refusals.run_closed(run)
        if answer >= 0:
            raise refusals.announcements_lost(run, answer, first)

    async def confirm(self, run: str, upto: int) -> None:
        await self._call("confirm", [self._names.run(run)], [upto])

    async def close_run(self, run: str) -> None:
        if not await self._call("close_run", [self._names.run(run)], [self._ttl_s]):
            raise refusals.unknown_run(run)

    async def forget(self, run: str) -> None:
        forget_keys = [self._names.run(run), self._names.runs, self._names.forgotten(run)]
        # The token distinguishes a repeat of this call, whose answer was lost, from a second call.
        args = [run, self._ttl_s, secrets.token_hex(8)]
        match await self._call("forget", forget_keys, args):
            case [-2]:
                raise refusals.never_begun(run)
            case [published, settled, total]:
                raise refusals.run_open(run, published=published, settled=settled, total=total)
            case [_]:
                raise refusals.unknown_run(run)

    async def runs(self, newest: int | None = None) -> list[str]:
        if newest is None:
            return await self._listed(self._names.runs)
        self._expired_from, _ = await self._page(self._names.runs, self._expired_from, LIMITS.expired_names)
        while True:
            found, expired = await self._call("newest", [self._names.runs], [newest])
            if not expired:
                return [name.decode() for name in reversed(found)]

    async def open_runs(self) -> list[str]:
        return await self._listed(self._names.open_runs)

    async def _listed(self, key: str) -> list[str]:
        """The runs of a sorted set, in its order. Reads a page at a time."""
        began, at = dict[str, float](), 0
        while True:
            at, page = await self._page(key, at, LIMITS.names)
            began.update(page)
            if at == 0:
                return sorted(began, key=lambda name: (began[name], name))

    async def _page(self, key: str, at: int, names: int) -> tuple[int, dict[str, float]]:
        """Where the next page begins, 0 after the last one; and the runs of this page with their beginnings."""
        beyond, found = await self._call("runs", [key], [at, names])
        return int(beyond), {
            name.decode(): float(began) for name, began in zip(found[::2], found[1::2], strict=True)
        }

    async def publication(self, run: str) -> Publication:
        def read(pipe: Pipeline) -> None:
            pipe.hgetall(self._names.run(run))
            pipe.time()

        values, time = await self._read(read)
        if not values:
            raise refusals.unknown_run(run)
        total, confirmed = int(values.get(b"total", 0)), int(values.get(b"confirmed", 0))
        silent_us = unix_us(time) - int(values.get(b"producer_seen_us", 0))
        alive = silent_us < self._timing.producer_silence_s * 1e6
        return Publication(
            recipe=values.get(b"recipe", b"").decode(),
            total=total,
            announced=int(values.get(b"announced", 0)),
            confirmed=confirmed,
            publishing=alive and not 0 < total <= confirmed,
        )

    async def replayed(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        marked = np.zeros(seqs.size, np.bool_)
        for piece, at in by_piece(seqs):
            bits = await self._redis.until_answered(
                partial(self._redis.get, f"{self._names.replayed(run)}{piece}")
            )
            # SETBIT counts from the highest bit of each byte.
            standing = np.unpackbits(np.frombuffer(bits or b"", np.uint8))
            offsets = seqs[at] - piece * PIECE_MESSAGES
            inside = offsets < standing.size
            marked[at] = inside & (standing[np.where(inside, offsets, 0)] == 1) if standing.size else False
        return marked

    async def mark_replayed(self, run: str, seqs: Seqs) -> None:
        for piece, at in by_piece(seqs):
            offsets = (seqs[at] - piece * PIECE_MESSAGES).tolist()
            mark_keys = [self._names.run(run), f"{self._names.replayed(run)}{piece}"]
            for i in range(0, len(offsets), LIMITS.marks):
                await self._call("mark_replayed", mark_keys, offsets[i : i + LIMITS.marks])
