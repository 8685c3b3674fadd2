"""The ledger in Redis: hashes for counters, strings of two bits a message for states, one Lua call a change."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from common.errors import RunBusy, RunExists, RunOpen, UnknownRun
from common.ledger import keys
from common.ledger.latency import histogram
from common.ledger.masks import PIECE_MESSAGES, Segment, by_piece, segments, unpack
from common.ledger.port import (
    NEVER_BEGUN,
    PRODUCER_SILENCE_S,
    SENDER_SILENCE_S,
    Outcomes,
    Publication,
    Resumable,
    SenderStatus,
    Snapshot,
    Standing,
)
from common.messages import Outcome, Seqs, State
from common.redis_client import answer_of

_SCRIPTS = (
    *("begin", "resume", "leave", "announce", "confirm", "cut", "forget", "age", "runs"),
    *("claim", "settle", "release", "mark", "heartbeat"),
)
MARKS_A_CALL = 5_000
_COUNTERS = (
    *("published", "sending", "sent", "failed", "retried", "ambiguous", "rejected"),
    *("total_time_us", "total", "started_us", "last_settled_us"),
)


class RedisLedger:
    """Runs in Redis. `run_ttl_s` is how long a settled run is kept.

    What must belong together is read by one command. A transaction would do as well, but Redis refuses to begin one
    when it is out of memory, and that is when somebody must be able to look.
    """

    def __init__(self, client: Redis, run_ttl_s: float = 7 * 86_400) -> None:
        self._redis = client
        self._ttl_s = max(1, int(run_ttl_s))
        lua = files("common.ledger") / "lua"
        prelude = (lua / "prelude.lua").read_text()
        self._scripts: dict[str, AsyncScript] = {
            name: client.register_script(prelude + (lua / f"{name}.lua").read_text()) for name in _SCRIPTS
        }

    async def begin(self, run: str, recipe: str, total: int, producer: str) -> None:
        begin_keys = [keys.run(run), keys.RUNS, keys.STATS, keys.forgotten(run)]
        if not await self._call("begin", begin_keys, [run, recipe, total, producer]):
            raise RunExists(
                f"run {run} exists already: choose another name, or go on with it by --resume {run}"
            )

    async def resume(self, run: str, producer: str) -> Resumable:
        answer = await self._call("resume", [keys.run(run)], [producer, int(PRODUCER_SILENCE_S * 1e6)])
        if not answer:
            raise _unknown(run)
        if len(answer) == 1:
            raise RunBusy(f"run {run} is being published by {answer[0].decode()}: wait until it has ended")
        recipe, total, announced, confirmed = answer
        return Resumable(recipe.decode(), total, announced, confirmed)

    async def leave(self, run: str, producer: str) -> None:
        await self._call("leave", [keys.run(run)], [producer])

    async def announce(self, run: str, first: int, count: int) -> None:
        answer = await self._call(
            "announce", [keys.STATS, keys.run(run), keys.RUNS], [run, first, count, PIECE_MESSAGES]
        )
        if answer >= 0:
            raise ValueError(f"seqs {answer} to {first - 1} of run {run} were not announced")

    async def confirm(self, run: str, upto: int) -> None:
        await self._call("confirm", [keys.run(run)], [upto])

    async def cut(self, run: str) -> None:
        if not await self._call("cut", [keys.run(run)], [self._ttl_s]):
            raise _unknown(run)

    async def forget(self, run: str) -> None:
        forget_keys = [keys.run(run), keys.RUNS, keys.forgotten(run)]
        # The token tells a repeat of this call, whose first answer was lost, from a second call.
        args = [run, self._ttl_s, secrets.token_hex(8)]
        match await self._call("forget", forget_keys, args):
            case [-2]:
                raise RunOpen(NEVER_BEGUN.format(run))
            case [published, settled, total]:
                raise RunOpen(
                    f"run {run} is not over: {max(total, published)} messages, {published} published,"
                    f" {settled} settled"
                )
            case [_]:
                raise _unknown(run)

    async def age_s(self, run: str) -> float:
        age_us: int = await self._call("age", [keys.STATS, keys.run(run), keys.RUNS], [run])
        return age_us / 1e6

    async def runs(self) -> list[str]:
        return [name.decode() for name in await self._call("runs", [keys.RUNS], [keys.run("")])]

    async def publication(self, run: str) -> Publication:
        async def read() -> list[Any]:
            pipe = self._redis.pipeline(transaction=False)
            pipe.hgetall(keys.run(run))
            pipe.time()
            return await pipe.execute()

        values, (seconds, micros) = await answer_of(read)
        if not values:
            raise _unknown(run)
        silent_us = seconds * 1_000_000 + micros - int(values.get(b"producer_seen_us", 0))
        total, announced, confirmed = (
            int(values.get(name, 0)) for name in (b"total", b"announced", b"confirmed")
        )
        publishing = silent_us < PRODUCER_SILENCE_S * 1e6 and (total == 0 or confirmed < total)
        return Publication(values.get(b"recipe", b"").decode(), total, announced, confirmed, publishing)

    async def replayed(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        marked = np.zeros(seqs.size, np.bool_)
        for piece, at in by_piece(seqs):
            bits = await answer_of(partial(self._redis.get, f"{keys.replayed(run)}{piece}"))
            # SETBIT counts from the highest bit of each byte.
            standing = np.unpackbits(np.frombuffer(bits or b"", np.uint8))
            offsets = seqs[at] - piece * PIECE_MESSAGES
            inside = offsets < standing.size
            marked[at] = inside & (standing[np.where(inside, offsets, 0)] == 1) if standing.size else False
        return marked

    async def mark_replayed(self, run: str, seqs: Seqs) -> None:
        for piece, at in by_piece(seqs):
            offsets = (seqs[at] - piece * PIECE_MESSAGES).tolist()
            mark_keys = [keys.run(run), f"{keys.replayed(run)}{piece}"]
            for i in range(0, len(offsets), MARKS_A_CALL):
                await self._call("mark", mark_keys, offsets[i : i + MARKS_A_CALL])

    async def states(self, run: str, seqs: Seqs) -> NDArray[np.uint8]:
        # Four messages to a byte; of each piece, the bytes that its seqs fall into.
        parts = [(piece, at, seqs[at] - piece * PIECE_MESSAGES) for piece, at in by_piece(seqs)]

        async def read() -> list[Any]:
            pipe = self._redis.pipeline(transaction=False)
            pipe.exists(keys.run(run))
            for piece, _, offsets in parts:
                pipe.getrange(f"{keys.states(run)}{piece}", int(offsets.min()) >> 2, int(offsets.max()) >> 2)
            return await pipe.execute()

        known, *found = await answer_of(read)
        if not known:
            raise _unknown(run)
        states = np.zeros(seqs.size, np.uint8)
        for (_, at, offsets), quads in zip(parts, found, strict=True):
            first = int(offsets.min()) >> 2
            pairs = unpack(quads.ljust((int(offsets.max()) >> 2) - first + 1, b"\0"))
            states[at] = pairs[offsets - (first << 2)]
        return states

    async def unsettled(self, run: str) -> AsyncIterator[Seqs]:
        announced = await self._announced(run)
        for piece in sorted({*range(-(-announced // PIECE_MESSAGES)), *await self._pieces(run)}):
            base = piece * PIECE_MESSAGES
            seqs = np.arange(base, min(base + PIECE_MESSAGES, announced))
            seqs = np.concatenate([seqs, await self._unannounced(run, piece, announced)])
            seqs = seqs[await self.states(run, seqs) < State.SENT]
            if seqs.size:
                yield seqs

    async def claim(self, run: str, seqs: Seqs, redelivered: bool) -> NDArray[np.uint8]:
        standing = np.zeros(seqs.size, np.uint8)
        await asyncio.gather(
            *(self._claim(run, piece, seqs, at, redelivered, standing) for piece, at in by_piece(seqs))
        )
        return standing

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

    async def reject(self, bodies: int) -> None:
        await answer_of(lambda: self._redis.hincrby(keys.STATS, "rejected", bodies))

    async def heartbeat(self, sender: str, slots: int, in_flight: int) -> None:
        await self._call(
            "heartbeat", [keys.SENDERS, keys.sender(sender)], [sender, slots, in_flight, self._ttl_s]
        )

    async def goodbye(self, sender: str) -> None:
        await answer_of(lambda: self._redis.zrem(keys.SENDERS, sender))

    async def snapshot(self, run: str | None = None) -> Snapshot:
        counters_key = keys.STATS if run is None else keys.run(run)
        latency_key = keys.LATENCY if run is None else keys.latency(run)

        async def read() -> list[Any]:
            pipe = self._redis.pipeline(transaction=False)
            pipe.hgetall(counters_key)
            pipe.hgetall(latency_key)
            pipe.zrangebyscore(keys.SENDERS, "-inf", "+inf", withscores=True)
            pipe.time()
            return await pipe.execute()

        counters, latency, senders, (seconds, micros) = await answer_of(read)
        if run is not None and b"started_us" not in counters:
            raise _unknown(run)
        now_us = seconds * 1_000_000 + micros
        values = {name: int(counters.get(name.encode(), 0)) for name in _COUNTERS}
        alive = [name.decode() for name, seen in senders if now_us - seen < SENDER_SILENCE_S * 1e6]
        return Snapshot(
            **values,
            now_us=now_us,
            latency={int(bucket): int(count) for bucket, count in latency.items()},
            senders=await self._senders(alive),
        )

    async def recount(self, run: str) -> dict[str, int]:
        published = announced = await self._announced(run)
        counts = np.zeros(4, np.int64)
        for piece in await self._pieces(run):
            words = await answer_of(partial(self._redis.get, f"{keys.states(run)}{piece}"))
            counts += np.bincount(unpack(words or b""), minlength=4)
            published += (await self._unannounced(run, piece, announced)).size
        by_state = {s.name.lower(): int(counts[s]) for s in (State.SENDING, State.SENT, State.FAILED)}
        return {"published": published, **by_state}

    async def close(self) -> None:
        await self._redis.aclose()

    async def _claim(
        self,
        run: str,
        piece: int,
        seqs: Seqs,
        at: NDArray[np.intp] | slice,
        redelivered: bool,
        standing: NDArray[np.uint8],
    ) -> None:
        base = piece * PIECE_MESSAGES
        mine = seqs[at]
        offsets = mine - base
        parts = segments(offsets, [np.ones(offsets.size, np.uint8)])
        claim_keys = [
            *(keys.STATS, keys.run(run), keys.RUNS, f"{keys.states(run)}{piece}"),
            *(keys.pieces(run), f"{keys.unannounced(run)}{piece}"),
        ]
        tail: list[Any] = []
        for part in parts:
            tail += [part.first_word, part.messages, *part.columns]

        def args(lost: bool) -> list[Any]:
            # A claim whose answer was lost may have been carried out: what it then finds sending is ours.
            return [run, piece, base, int(mine.max()), int(redelivered or lost), PIECE_MESSAGES, *tail]

        answers, lost = await self._call_noting_loss("claim", claim_keys, args)
        if not any(answers):
            return
        states = _states(offsets, parts, answers)
        found = np.full(offsets.size, Standing.SETTLED, np.uint8)
        found[states == State.QUEUED] = Standing.NEW
        found[states == State.SENDING] = Standing.AMBIGUOUS if redelivered or lost else Standing.DUPLICATE
        standing[at] = found

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
            states = _states(offsets, parts, was)
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

    async def _release(self, run: str, piece: int, offsets: Seqs, again: bool) -> None:
        """Releases messages of one piece."""
        args: list[Any] = []
        for part in segments(offsets, [np.ones(offsets.size, np.uint8)]):
            args += [part.first_word, *part.columns]
        release_keys = [keys.STATS, keys.run(run), f"{keys.states(run)}{piece}"]
        await self._call_noting_loss("release", release_keys, lambda lost: [int(again or lost), *args])

    def _settle_args(self, outcomes: Outcomes, sender: str) -> list[Any]:
        final = outcomes.times_us[outcomes.outcomes >= Outcome.SENT]
        buckets = histogram(final)
        args: list[Any] = [*outcomes.counts(), int(final.sum()), self._ttl_s, int(bool(sender)), len(buckets)]
        for bucket, count in buckets.items():
            args += [bucket, count]
        return args

    async def _announced(self, run: str) -> int:
        """How far a run is announced. Raises UnknownRun."""
        started, announced = await answer_of(
            lambda: self._redis.hmget(keys.run(run), ["started_us", "announced"])
        )
        if started is None:
            raise _unknown(run)
        return int(announced or 0)

    async def _pieces(self, run: str) -> list[int]:
        """The pieces of which a message was ever claimed."""
        return sorted(int(piece) for piece in await answer_of(lambda: self._redis.smembers(keys.pieces(run))))

    async def _unannounced(self, run: str, piece: int, announced: int) -> Seqs:
        """The seqs of a piece, at or above `announced`, that were counted with no announcement; ascending."""
        base = piece * PIECE_MESSAGES
        if base + PIECE_MESSAGES <= announced:
            return np.zeros(0, np.int64)
        bits = await answer_of(lambda: self._redis.get(f"{keys.unannounced(run)}{piece}"))
        counted = base + np.flatnonzero(np.unpackbits(np.frombuffer(bits or b"", np.uint8)))
        return counted[counted >= announced]

    async def _senders(self, names: list[str]) -> dict[str, SenderStatus]:
        async def read() -> list[dict[bytes, bytes]]:
            pipe = self._redis.pipeline(transaction=False)
            for name in names:
                pipe.hgetall(keys.sender(name))
            return cast(list[dict[bytes, bytes]], await pipe.execute())

        hashes = await answer_of(read) if names else []
        fields = SenderStatus.__dataclass_fields__
        return {
            name: SenderStatus(**{f: int(values.get(f.encode(), 0)) for f in fields})
            for name, values in zip(names, hashes, strict=True)
        }

    async def _call(self, script: str, script_keys: Sequence[str], args: Sequence[Any]) -> Any:
        return (await self._call_noting_loss(script, script_keys, lambda _: args))[0]

    async def _call_noting_loss(
        self, script: str, script_keys: Sequence[str], args: Callable[[bool], Sequence[Any]]
    ) -> tuple[Any, bool]:
        """The script's answer, and whether an earlier try may have been carried out without one."""
        tries = 0

        async def once() -> Any:
            nonlocal tries
            tries += 1
            return await self._scripts[script](keys=script_keys, args=args(tries > 1))

        return await answer_of(once), tries > 1


def _unknown(run: str) -> UnknownRun:
    return UnknownRun(f"no run {run} in the ledger")


def _states(offsets: Seqs, parts: list[Any], answers: list[bytes]) -> NDArray[np.uint8]:
    """The state of each offset, read from the words that a script gave back; queued where it gave none."""
    states = np.zeros(offsets.size, np.uint8)
    for part, words in zip(parts, answers, strict=True):
        if words:
            first = part.first_word * 16
            pairs = unpack(words)
            inside = (offsets >= first) & (offsets < first + pairs.size)
            states[inside] = pairs[offsets[inside] - first]
    return states
