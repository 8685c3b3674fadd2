"""The ledger in Redis: claims, settles, releases and cancellations, with one Lua call for each piece of a run."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.ledger.histogram import histogram
from common.ledger.pieces import PIECE_MESSAGES, by_piece
from common.ledger.redis.masks import Pairs, Segment, pairs_at, segments
from common.ledger.redis.scripts import RedisScripts
from common.ledger.values import Claim, Outcomes, Standing
from common.messages import Outcome, Seqs, State


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The messages of a call that are in one piece.

    Attributes:
        at: Their positions in the call.
    """

    run: str
    piece: int
    at: NDArray[np.intp] | slice
    seqs: Seqs

    @property
    def offsets(self) -> Seqs:
        """Their offsets in the piece."""
        return self.seqs - self.piece * PIECE_MESSAGES

    def key(self, prefix: Callable[[str], str]) -> str:
        """The key of the piece's string under a prefix."""
        return f"{prefix(self.run)}{self.piece}"


def _parts(run: str, seqs: Seqs) -> Iterator[_Part]:
    for piece, at in by_piece(seqs):
        yield _Part(run, piece, at, seqs[at])


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    """The answer of a script that takes queued messages.

    Attributes:
        pairs: What it answers for each message; None if it answers nothing, since all were queued.
        lost: Whether an earlier attempt may have taken effect.
        before: What it answers before that.
    """

    pairs: Pairs | None
    lost: bool
    before: list[int]


class RedisClaims(RedisScripts):
    """Changes of the states of messages."""

    async def claim(self, run: str, seqs: Seqs, redelivered: bool) -> Claim:
        parts = list(_parts(run, seqs))
        claims = await asyncio.gather(*(self._claim(part, redelivered) for part in parts))
        standing = np.zeros(seqs.size, np.uint8)
        for part, claim in zip(parts, claims, strict=True):
            standing[part.at] = claim.standing
        return Claim(standing, age_s=max((claim.age_s for claim in claims), default=0.0))

    async def settle(self, run: str, outcomes: Outcomes, sender: str = "", again: bool = False) -> None:
        parts = _parts(run, outcomes.seqs)
        await asyncio.gather(*(self._settle(part, outcomes.where(part.at), sender, again) for part in parts))

    async def release(self, run: str, seqs: Seqs, again: bool = False) -> None:
        for part in _parts(run, seqs):
            args: list[Any] = []
            for segment in segments(part.offsets, [np.ones(part.seqs.size, np.uint8)]):
                args += [segment.first_word, *segment.columns]
            release_keys = [self._names.stats, self._names.run(run), part.key(self._names.states)]
            call = _with_first(lambda lost: int(again or lost), args)
            await self._call_noting_loss("release", release_keys, call)

    async def cancel(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        canceled = np.zeros(seqs.size, np.bool_)
        for part in _parts(run, seqs):
            taken = await self._take("cancel", part, [part.key(self._names.canceled)], lambda _: self._ttl_s)
            assert taken.pairs is not None  # the script answers the marks of each message
            canceled[part.at] = taken.pairs != 0
        return canceled

    async def _claim(self, part: _Part, redelivered: bool) -> Claim:
        # A claim whose answer was lost may have taken effect: what it then finds sending is this sender's.
        taken = await self._take("claim", part, [], lambda lost: int(redelivered or lost))
        age_s = taken.before[0] / 1e6
        standing = np.full(part.seqs.size, Standing.NEW, np.uint8)
        if taken.pairs is not None:
            again = redelivered or taken.lost
            standing[taken.pairs == State.SENDING] = Standing.AMBIGUOUS if again else Standing.DUPLICATE
            standing[taken.pairs >= State.SENT] = Standing.SETTLED
        return Claim(standing, age_s)

    async def _take(
        self, script: str, part: _Part, more_keys: list[str], own_argument: Callable[[bool], int]
    ) -> _Taken:
        """Calls a script that takes what is queued. `own_argument` gets whether an answer was lost."""
        offsets = part.offsets
        found = segments(offsets, [np.ones(offsets.size, np.uint8)])
        take_keys = [
            self._names.stats,
            self._names.run(part.run),
            self._names.runs,
            part.key(self._names.states),
            self._names.pieces(part.run),
            part.key(self._names.unannounced),
            *more_keys,
        ]
        head = [part.run, part.piece, part.piece * PIECE_MESSAGES, int(part.seqs.max())]
        tail: list[Any] = [PIECE_MESSAGES]
        for segment in found:
            tail += [segment.first_word, segment.messages, *segment.columns]
        answer, lost = await self._call_noting_loss(
            script, take_keys, lambda lost: [*head, own_argument(lost), *tail]
        )
        before, words = answer[: -len(found)], answer[-len(found) :]
        return _Taken(pairs_at(offsets, found, words) if any(words) else None, lost, before)

    async def _settle(self, part: _Part, outcomes: Outcomes, sender: str, again: bool) -> None:
        """Settles messages of one piece. The script does so only if all of them are sending, as nearly always."""
        settle_keys = [
            self._names.stats,
            self._names.run(part.run),
            part.key(self._names.states),
            self._names.total_latency,
            self._names.latency(part.run),
            self._names.sender(sender),
        ]
        while outcomes.seqs.size:
            offsets = outcomes.seqs - part.piece * PIECE_MESSAGES
            columns = [np.ones(offsets.size, np.uint8), outcomes.outcomes ^ np.uint8(State.SENDING)]
            found = segments(offsets, columns)
            args = self._settle_args(outcomes, sender, found)
            call = _with_first(_ambiguous(outcomes, again), args)
            words, lost = await self._call_noting_loss("settle", settle_keys, call)
            again = again or lost
            if not words:
                return
            states = pairs_at(offsets, found, words)
            still_open = (states < State.SENT) & (states != outcomes.outcomes)
            outcomes, states = outcomes.where(still_open), states[still_open]
            released = outcomes.seqs[states == State.QUEUED]
            if released.size:
                # Another sender has released them, and yet they were sent: claim them again to settle them.
                await self.claim(part.run, released, redelivered=True)

    def _settle_args(self, outcomes: Outcomes, sender: str, found: list[Segment]) -> list[Any]:
        final = outcomes.times_us[outcomes.outcomes >= Outcome.SENT]
        buckets = histogram(final)
        args: list[Any] = [*outcomes.counts(), int(final.sum()), self._ttl_s, int(bool(sender)), len(buckets)]
        for bucket, count in buckets.items():
            args += [bucket, count]
        for segment in found:
            args += [segment.first_word, *segment.columns]
        return args


def _ambiguous(outcomes: Outcomes, again: bool) -> Callable[[bool], int]:
    return lambda lost: outcomes.ambiguous_count(again or lost)


def _with_first(first: Callable[[bool], int], args: list[Any]) -> Callable[[bool], list[Any]]:
    """The arguments of a call, the first of which depends on whether an answer was lost."""
    return lambda lost: [first(lost), *args]
