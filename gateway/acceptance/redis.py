"""Accepted messages in Redis. One Lua call accepts a group of messages."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from itertools import chain, islice
from typing import Any

from common.errors import Refused, Unavailable
from common.keys import Keys
from common.ledger.pieces import PIECE_MESSAGES
from common.ledger.redis.scripts import with_prelude
from common.messages import Lane, Message
from common.publishing.recipes import origin_in
from common.redis import Client
from common.tracking.port import Tracker
from common.tracking.texts import CHUNK_MESSAGES, packed
from common.tracking.wire import encode_record
from gateway.acceptance.port import (
    KEY_KEPT_S,
    NOBODY,
    Bounds,
    Exceptional,
    Group,
    GroupAnswer,
    IdempotencyKey,
    Item,
    Kept,
    Lease,
    LeaseLost,
    NewRun,
    Outbox,
    Owner,
    Verdict,
)
from gateway.acceptance.recipes import recipe_of_batch, recipe_of_singles
from gateway.callbacks.limits import Retention

_SCRIPTS = ("open", "accept", "accept_run", "confirm", "release", "take_over", "trim")
_KEY_S = int(KEY_KEPT_S)
_NO_BOUND = Bounds().kept_bytes


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """How long accepted messages are kept, and how many of them.

    Attributes:
        lease_s: How long a lease lasts.
        message_ttl_s: How long records and texts are kept once the broker has them.
        run_ttl_s: How long a settled run is kept.
        closed_s: How long the last answer of a run that was relayed is kept.
        staged_s: How long texts are kept that were staged and not accepted. They count for no bound, so this is little
            longer than a batch may take to be accepted (`AcceptanceLimits.run_answer_s`).
        staged_from: Messages of a run beyond which its texts are staged, so that no call holds Redis for long.
        staged_chunks: Chunks of texts that are staged in one call; each takes about 0.1 ms to be packed.
        bounds: The most messages in all outboxes.
        memory_share: The share of Redis's `maxmemory` that all outboxes may take.
        kept_bytes: The most bytes that are kept for show.
        kept_share: The share of `maxmemory` that they may take, if `kept_bytes` is None.
        full_share: The share of it beyond which what is kept for show gives way.
        bounds_for_s: How often `maxmemory` is read, at least.
    """

    lease_s: float = 10.0
    message_ttl_s: float = 86_400.0
    run_ttl_s: float = 7 * 86_400.0
    closed_s: float = 3_600.0
    staged_s: float = 60.0
    staged_from: int = 5_000
    staged_chunks: int = 80
    bounds: Bounds = field(default_factory=Bounds)
    memory_share: float = 0.25
    kept_bytes: int | None = None
    kept_share: float = 0.4
    full_share: float = 0.85
    bounds_for_s: float = 60.0

    @property
    def callbacks(self) -> Retention:
        """How long callbacks are kept."""
        return Retention(message_s=self.message_ttl_s)


@dataclass(frozen=True, slots=True)
class _Memory:
    """The memory of Redis.

    Attributes:
        used: The bytes that count towards the limit.
        limit: `maxmemory`; 0 if there is none.
    """

    used: int
    limit: int


class RedisAcceptances:
    """Shared by all gateways on this Redis; those of one `queue` take over one another's runs.

    The client stays the caller's.
    """

    def __init__(self, client: Client, tracker: Tracker, queue: str, holder: str, keeping: Keeping) -> None:
        self._redis = client
        self._names = client.names
        self._tracker = tracker
        self._queue = queue
        self._holder = holder
        self._keeping = keeping
        self._bounds = keeping.bounds
        self._bounds_until_s = float("-inf")
        self._scripts = {
            name: client.register_script(text) for name, text in script_texts(client.names).items()
        }

    async def open(self, run: str, lane: Lane, owner: Owner = NOBODY) -> Outbox:
        args = [run, recipe_of_singles(lane, self._queue, owner), self._holder, lane.value, self._lease_us]
        await self._call("open", self._keys(run), args)
        return Outbox(lease=Lease(run, fence=1), lane=lane, track=True, simulated=owner.simulated)

    async def accept(self, outbox: Outbox, group: Group) -> GroupAnswer:
        lease = outbox.lease
        records = [
            encode_record(item.record(lease.run, 0, accepted_us=group.accepted_us, lane=outbox.lane))
            for item in group.items
        ]
        about = [lease.run, lease.fence, group.number, group.relayed, len(records)]
        args = [*await self._policy(), *about, *records, *_extras(group.items, self._names)]
        answer = await self._call("accept", self._keys(lease.run), args)
        if not answer:
            raise LeaseLost(f"run {lease.run} takes no more messages of this gateway")
        return _group_answer(*answer)

    async def accept_run(self, batch: NewRun) -> Outbox | Exceptional:
        run, messages, key = batch.run, len(batch.messages), batch.key
        content = await self._content(batch)
        about: list[Any] = [
            run,
            recipe_of_batch(messages, batch.lane, self._queue, owner=batch.owner),
            self._holder,
            batch.lane.value,
        ]
        about += [int(batch.track), messages, key.fingerprint if key else "", len(content)]
        args = [*await self._policy(), *about, *content, *_callbacks(batch)]
        run_keys = [*self._keys(run), self._names.texts(run), _name(key, self._names)]
        match await self._call("accept_run", run_keys, args):
            case [b"accepted"]:
                lease = Lease(run, fence=1)
                return Outbox(
                    lease=lease,
                    lane=batch.lane,
                    track=batch.track,
                    simulated=batch.owner.simulated,
                    accepted=messages,
                )
            case [b"unstaged", _]:
                raise Unavailable(f"Redis lost texts of run {run} before it was accepted")
            case why, of:
                return Exceptional(Verdict(why.decode()), of.decode())
            case other:
                raise AssertionError(other)

    async def confirm(self, lease: Lease, relayed: int, close: bool = False) -> int:
        run_ttl_s, closed_s = self._keeping.run_ttl_s, self._keeping.closed_s
        args = [lease.run, lease.fence, relayed, self._lease_us, self._message_ttl_s]
        args += [int(close), max(1, int(run_ttl_s)), max(1, int(closed_s)), self._bounds.kept_bytes, _KEY_S]
        accepted: int = await self._call("confirm", self._keys(lease.run), args)
        if accepted < 0:
            raise LeaseLost(f"another gateway relays run {lease.run}")
        return accepted

    async def release(self, lease: Lease) -> None:
        await self._call("release", self._keys(lease.run), [lease.run, lease.fence])

    async def take_over(self, silent_s: float) -> Outbox | None:
        args = [self._holder, _us(silent_s), self._lease_us]
        found = await self._call("take_over", [self._names.leases(self._queue)], args)
        if not found:
            return None
        run, fence, lane, track, relayed, accepted, recipe = found
        return Outbox(
            lease=Lease(run.decode(), fence),
            lane=Lane(lane.decode()),
            track=track == b"1",
            simulated=origin_in(recipe).simulated,
            relayed=relayed,
            accepted=accepted,
        )

    async def read(self, outbox: Outbox, first: int, count: int) -> list[Message | None]:
        return await self._tracker.messages(outbox.lease.run, range(first, first + count))

    async def backlog(self) -> tuple[int, int]:
        messages, size = await self._redis.until_answered(
            lambda: self._redis.hmget(self._names.outbox_totals, ["messages", "bytes"])
        )
        return int(messages or 0), int(size or 0)

    async def trim(self) -> Kept:
        memory = await self._read_bounds()
        most = self._bounds.kept_bytes
        kept = await self._kept_bytes()
        if memory.limit and (over := memory.used - int(self._keeping.full_share * memory.limit)) > 0:
            most = max(0, min(most, kept - over))
            self._bounds = replace(self._bounds, kept_bytes=most)
        before = kept + 1
        while most < kept < before:
            before, kept = kept, await self._call("trim", self._keys(""), [most])
        bound = self._bounds_of(memory).kept_bytes
        return Kept(kept, 0 if bound == _NO_BOUND else bound, memory.used, memory.limit)

    @property
    def _lease_us(self) -> int:
        return _us(self._keeping.lease_s)

    @property
    def _message_ttl_s(self) -> int:
        return max(1, int(self._keeping.message_ttl_s))

    def _keys(self, run: str) -> list[str]:
        """The keys of every script of a run."""
        names = [
            self._names.stats,
            self._names.run(run),
            self._names.runs,
            self._names.outbox(run),
            self._names.outbox_totals,
            self._names.kept,
        ]
        return [*names, self._names.leases(self._queue), self._names.callbacks]

    async def _policy(self) -> list[Any]:
        """The first arguments of the scripts that accept: bounds and times."""
        bounds = await self._current_bounds()
        callbacks = self._keeping.callbacks
        kept_for = [self._message_ttl_s, _KEY_S, _us(callbacks.first_check_s), int(callbacks.total_s * 1000)]
        most = [bounds.messages, bounds.bytes, bounds.kept_bytes]
        return [*most, *kept_for, PIECE_MESSAGES, self._lease_us]

    async def _content(self, batch: NewRun) -> list[Any]:
        """The records of a tracked run; else its texts, chunk by chunk, or nothing of a large run: it is staged."""
        if batch.track:
            return [encode_record(batch.record(message)) for message in batch.messages]
        if len(batch.messages) > self._keeping.staged_from:
            await self._stage(batch)
            return []
        return list(chain.from_iterable(packed(batch.messages)))

    async def _stage(self, batch: NewRun) -> None:
        """Keeps the texts of a run for a while, before it is accepted, so that no call holds Redis for long."""
        texts_key, ttl_s = self._names.texts(batch.run), max(1, int(self._keeping.staged_s))
        chunks = packed(batch.messages)
        while some := list(chain.from_iterable(islice(chunks, self._keeping.staged_chunks))):
            await self._redis.until_answered(partial(self._keep, texts_key, some, ttl_s))

    async def _keep(self, texts_key: str, chunks: list[Any], ttl_s: int) -> None:
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(texts_key, items=chunks)
        pipe.expire(texts_key, ttl_s)
        await pipe.execute()

    async def _current_bounds(self) -> Bounds:
        """The bounds, with a share of the memory that Redis may use now."""
        if time.monotonic() >= self._bounds_until_s:
            await self._read_bounds()
        return self._bounds

    async def _read_bounds(self) -> _Memory:
        try:
            info = await self._redis.until_answered(lambda: self._redis.info("memory"))
        except Refused:  # INFO may be forbidden
            info = {}
        used = int(info.get("used_memory", 0)) - int(info.get("mem_not_counted_for_evict", 0))
        memory = _Memory(used=used, limit=int(info.get("maxmemory", 0)))
        self._bounds = self._bounds_of(memory)
        self._bounds_until_s = time.monotonic() + self._keeping.bounds_for_s
        return memory

    def _bounds_of(self, memory: _Memory) -> Bounds:
        keeping, limit = self._keeping, memory.limit or math.inf
        kept_bytes = keeping.kept_bytes
        if kept_bytes is None:
            kept_bytes = int(min(_NO_BOUND, keeping.kept_share * limit))
        most_bytes = int(min(keeping.bounds.bytes, keeping.memory_share * limit))
        return Bounds(keeping.bounds.messages, most_bytes, kept_bytes)

    async def _kept_bytes(self) -> int:
        return int(
            await self._redis.until_answered(
                partial(self._redis.hget, self._names.outbox_totals, "kept_bytes")
            )
            or 0
        )

    async def _call(self, script: str, script_keys: list[str], args: list[Any]) -> Any:
        return await self._redis.until_answered(lambda: self._scripts[script](keys=script_keys, args=args))


def script_texts(names: Keys) -> dict[str, str]:
    """Each script as Redis gets it."""
    lua = files("gateway.acceptance") / "lua"
    prefixes = {
        "MESSAGE_KEY": names.message(""),
        "TEXTS_KEY": names.texts(""),
        "CALLBACK_KEY": names.callback(""),
        "OUTBOX_KEY": names.outbox(""),
    }
    head = f"local CHUNK_MESSAGES = {CHUNK_MESSAGES}\n"
    head += "".join(f"local {name} = '{prefix}'\n" for name, prefix in prefixes.items())
    prelude = head + (lua / "prelude.lua").read_text()
    return {name: with_prelude(prelude + (lua / f"{name}.lua").read_text(), names) for name in _SCRIPTS}


def _group_answer(first: int, *rest: Any) -> GroupAnswer:
    exceptions = {
        at: Exceptional(Verdict(why.decode()), of.decode())
        for at, why, of in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
    }
    return GroupAnswer(first, exceptions)


def _extras(items: Sequence[Item], names: Keys) -> Iterator[Any]:
    """Five arguments of accept.lua for each item that has a key or a callback."""
    for at, item in enumerate(items):
        if item.key is not None or item.callback_url is not None:
            fingerprint = item.key.fingerprint if item.key else ""
            yield from (at, _name(item.key, names), fingerprint, item.number, item.callback_url or "")


def _callbacks(batch: NewRun) -> Iterator[Any]:
    """Three arguments of accept_run.lua for each message that has a callback."""
    for seq, url in batch.callback_urls.items():
        yield from (seq, batch.messages[seq].to, url)


def _name(key: IdempotencyKey | None, names: Keys) -> str:
    return names.idempotency_key(key.caller, key.digest) if key else ""


def _us(seconds: float) -> int:
    return int(seconds * 1e6)
