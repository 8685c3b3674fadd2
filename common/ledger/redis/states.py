"""The ledger in Redis, the side of the messages: two bits of state each, in pieces, one Lua call a change."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import keys
from common.ledger import refusals
from common.ledger.histogram import histogram
from common.ledger.pieces import PIECE_MESSAGES, by_piece
from common.ledger.redis.masks import Pairs, Segment, pairs_at, segments, unpack
from common.ledger.redis.scripts import RedisScripts
from common.ledger.values import Claim, Outcomes, Standing
from common.messages import Outcome, Seqs, State
from common.redis import retry_until_answered


class RedisStates(RedisScripts):
    """Messages, and what becomes of them."""

    async def claim(self, run: str, seqs: Seqs, redelivered: bool) -> Claim:
        standing = np.zeros(seqs.size, np.uint8)
        ages_us = await asyncio.gather(
            *(self._claim(run, piece, seqs, at, redelivered, standing) for piece, at in by_piece(seqs))
        )
        return Claim(standing, age_s=max(ages_us, default=0) / 1e6)

    async def settle(self, run: str, outcomes: Outcomes, sender: str = "", again: bool = False) -> None:
        await asyncio.gather(
            *(
                self._settle(run, piece, outcomes.where(at), sender, again)
                for piece, at in by_piece(outcomes.seqs)
            )
        )

    async def release(self, run: str, seqs: Seqs, again: bool = False) -> None:
        for piece, at in by_piece(seqs):
            await self._release(run, piece, seqs[at] - piece * PIECE_MESSAGES, again)

    async def cancel(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        canceled = np.zeros(seqs.size, np.bool_)
        for piece, at in by_piece(seqs):
            canceled[at] = await self._cancel(run, piece, seqs[at])
        return canceled

    async def canceled(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        canceled: NDArray[np.bool_] = await self._pairs(run, keys.canceled(run), seqs) != 0
        return canceled

    async def states(self, run: str, seqs: Seqs) -> NDArray[np.uint8]:
        return await self._pairs(run, keys.states(run), seqs)

    async def _pairs(self, run: str, prefix: str, seqs: Seqs) -> NDArray[np.uint8]:
        """The pair of bits of each message, in strings of pieces. Raises UnknownRun."""
        # Four messages to a byte; of each piece, the bytes that its seqs fall into.
        parts = [(piece, at, seqs[at] - piece * PIECE_MESSAGES) for piece, at in by_piece(seqs)]

        async def read() -> list[Any]:
            pipe = self._redis.pipeline(transaction=False)
            pipe.exists(keys.run(run))
            for piece, _, offsets in parts:
                pipe.getrange(f"{prefix}{piece}", int(offsets.min()) >> 2, int(offsets.max()) >> 2)
            return await pipe.execute()

        known, *found = await retry_until_answered(read)
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
            words = await retry_until_answered(partial(self._redis.get, f"{keys.states(run)}{piece}"))
            counts += np.bincount(unpack(words or b""), minlength=4)
            published += (await self._unannounced(run, piece, announced)).size
        by_state = {s.name.lower(): int(counts[s]) for s in (State.SENDING, State.SENT, State.FAILED)}
        return {"published": published, **by_state}

    async def _claim(
        self,
        run: str,
        piece: int,
        seqs: Seqs,
        at: NDArray[np.intp] | slice,
        redelivered: bool,
        standing: NDArray[np.uint8],
    ) -> int:
        """Fills in the standing of messages of one piece; gives the run's age in microseconds."""
        # A claim whose answer was lost may have been carried out: what it then finds sending is ours.
        states, lost, (age_us,) = await self._take(
            "claim", run, piece, seqs[at], [], lambda lost: int(redelivered or lost)
        )
        if states is None:
            return age_us
        found = np.full(states.size, Standing.SETTLED, np.uint8)
        found[states == State.QUEUED] = Standing.NEW
        found[states == State.SENDING] = Standing.AMBIGUOUS if redelivered or lost else Standing.DUPLICATE
        standing[at] = found
        return age_us

    async def _cancel(self, run: str, piece: int, seqs: Seqs) -> NDArray[np.bool_]:
        more_keys = [keys.LATENCY, keys.latency(run), f"{keys.canceled(run)}{piece}"]
        marks, _, _ = await self._take("cancel", run, piece, seqs, more_keys, lambda _: self._ttl_s)
        assert marks is not None  # each segment has its marks
        canceled: NDArray[np.bool_] = marks != 0
        return canceled

    async def _take(
        self,
        script: str,
        run: str,
        piece: int,
        seqs: Seqs,
        more_keys: list[str],
        own: Callable[[bool], int],
    ) -> tuple[Pairs | None, bool, list[int]]:
        """What messages of one piece were before a script took those that were queued, None if all were.

        And whether an earlier try may have been carried out, and what the script returns before the words of states.
        `own` is the one argument that each script has its own of.
        """
        base = piece * PIECE_MESSAGES
        offsets = seqs - base
        parts = segments(offsets, [np.ones(offsets.size, np.uint8)])
        take_keys = [
            *(keys.STATS, keys.run(run), keys.RUNS, f"{keys.states(run)}{piece}"),
            *(keys.pieces(run), f"{keys.unannounced(run)}{piece}", *more_keys),
        ]
        tail: list[Any] = []
        for part in parts:
            tail += [part.first_word, part.messages, *part.columns]
        upto = int(seqs.max())
        answers, lost = await self._call_noting_loss(
            script, take_keys, lambda lost: [run, piece, base, upto, own(lost), PIECE_MESSAGES, *tail]
        )
        before, words = answers[: -len(parts)], answers[-len(parts) :]
        return pairs_at(offsets, parts, words) if any(words) else None, lost, before

    async def _settle(self, run: str, piece: int, outcomes: Outcomes, sender: str, again: bool) -> None:
        """Settles one piece: all at once if all is sending, as it nearly always is; else sorts that out first."""
        settle_keys = [
            *(keys.STATS, keys.run(run), f"{keys.states(run)}{piece}"),
            *(keys.LATENCY, keys.latency(run), keys.sender(sender)),
        ]
        while outcomes.seqs.size:
            offsets = outcomes.seqs - piece * PIECE_MESSAGES
            mask = np.ones(offsets.size, np.uint8)
            parts = segments(offsets, [mask, outcomes.outcomes ^ np.uint8(State.SENDING)])
            was, again = await self._try_to_settle(settle_keys, outcomes, parts, sender, again)
            if not was:
                return
            states = pairs_at(offsets, parts, was)
            open_still = (states < State.SENT) & (states != outcomes.outcomes)
            outcomes, states = outcomes.where(open_still), states[open_still]
            given_back = outcomes.seqs[states == State.QUEUED]
            if given_back.size:
                # Somebody gave them back, and yet they were sent: they are ours again, to settle them.
                await self.claim(run, given_back, redelivered=True)

    async def _try_to_settle(
        self, settle_keys: list[str], outcomes: Outcomes, parts: list[Segment], sender: str, again: bool
    ) -> tuple[list[bytes], bool]:
        """The script's answer, and whether the next try is one of those that may have been carried out before."""
        args = self._settle_args(outcomes, sender)
        for part in parts:
            args += [part.first_word, *part.columns]
        was, lost = await self._call_noting_loss(
            "settle", settle_keys, lambda lost: [outcomes.ambiguous_count(again or lost), *args]
        )
        return was, again or lost

    def _settle_args(self, outcomes: Outcomes, sender: str) -> list[Any]:
        final = outcomes.times_us[outcomes.outcomes >= Outcome.SENT]
        buckets = histogram(final)
        args: list[Any] = [*outcomes.counts(), int(final.sum()), self._ttl_s, int(bool(sender)), len(buckets)]
        for bucket, count in buckets.items():
            args += [bucket, count]
        return args

    async def _release(self, run: str, piece: int, offsets: Seqs, again: bool) -> None:
        """Releases messages of one piece."""
        args: list[Any] = []
        for part in segments(offsets, [np.ones(offsets.size, np.uint8)]):
            args += [part.first_word, *part.columns]
        release_keys = [keys.STATS, keys.run(run), f"{keys.states(run)}{piece}"]
        await self._call_noting_loss("release", release_keys, lambda lost: [int(again or lost), *args])

    async def _announced(self, run: str) -> int:
        """How far a run is announced. Raises UnknownRun."""
        started, announced = await retry_until_answered(
            lambda: self._redis.hmget(keys.run(run), ["started_us", "announced"])
        )
        if started is None:
            raise refusals.unknown_run(run)
        return int(announced or 0)

    async def _pieces(self, run: str) -> list[int]:
        """The pieces of which a message was ever claimed."""
        return sorted(
            int(piece) for piece in await retry_until_answered(lambda: self._redis.smembers(keys.pieces(run)))
        )

    async def _unannounced(self, run: str, piece: int, announced: int) -> Seqs:
        """The seqs of a piece, at or above `announced`, that were counted with no announcement; ascending."""
        base = piece * PIECE_MESSAGES
        if base + PIECE_MESSAGES <= announced:
            return np.zeros(0, np.int64)
        bits = await retry_until_answered(lambda: self._redis.get(f"{keys.unannounced(run)}{piece}"))
        counted = base + np.flatnonzero(np.unpackbits(np.frombuffer(bits or b"", np.uint8)))
        return counted[counted >= announced]
