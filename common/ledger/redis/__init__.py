"""The ledger in Redis: hashes for counters, strings of two bits a message for states, one Lua call a change."""

from collections.abc import Iterable
from typing import Any

from redis.asyncio.client import Pipeline

from common.counters import TALLIED
from common.ledger import refusals
from common.ledger.redis.claims import RedisClaims
from common.ledger.redis.runs import RedisRuns
from common.ledger.redis.scripts import unix_us
from common.ledger.redis.states import RedisStates
from common.ledger.values import SenderStatus, Snapshot

_FIELDS = (*TALLIED, "total", "started_us", "last_settled_us")


class RedisLedger(RedisRuns, RedisClaims, RedisStates):
    """Runs, their messages, and the senders, in Redis.

    Values that must be consistent are read by one command. A transaction would do as well, but Redis refuses to begin
    one when it is out of memory, which is when an operator needs to look.
    """

    async def reject(self, bodies: int) -> None:
        await self._redis.until_answered(
            lambda: self._redis.write("HINCRBY", self._names.stats, "rejected", bodies)
        )

    async def ready(self) -> None:
        await self._call("ready", [self._names.ready], [])

    async def heartbeat(self, sender: str, slots: int, in_flight: int) -> int:
        args = [sender, slots, in_flight, self._ttl_s]
        return int(await self._call("heartbeat", [self._names.senders, self._names.sender(sender)], args))

    async def deregister(self, sender: str) -> None:
        await self._redis.until_answered(lambda: self._redis.zrem(self._names.senders, sender))

    async def snapshot(self, run: str | None = None) -> Snapshot:
        counters_key = self._names.stats if run is None else self._names.run(run)
        latency_key = self._names.total_latency if run is None else self._names.latency(run)

        def read(pipe: Pipeline) -> None:
            pipe.hgetall(counters_key)
            pipe.hgetall(latency_key)
            pipe.zrangebyscore(self._names.senders, "-inf", "+inf", withscores=True)
            pipe.time()

        counters, latency, senders, time = await self._read(read)
        if run is not None and b"started_us" not in counters:
            raise refusals.unknown_run(run)
        now_us, silence_us = unix_us(time), self._timing.sender_silence_s * 1e6
        alive = [name.decode() for name, seen in senders if now_us - seen < silence_us]
        return Snapshot(
            **_integers(counters, _FIELDS),
            now_us=now_us,
            latency={int(bucket): int(count) for bucket, count in latency.items()},
            senders=await self._senders(alive),
        )

    async def close(self) -> None:
        await self._redis.aclose()

    async def _senders(self, names: list[str]) -> dict[str, SenderStatus]:
        def read(pipe: Pipeline) -> None:
            for name in names:
                pipe.hgetall(self._names.sender(name))

        hashes = await self._read(read) if names else []
        fields = tuple(SenderStatus.__dataclass_fields__)
        return {
            name: SenderStatus(**_integers(values, fields))
            for name, values in zip(names, hashes, strict=True)
        }


def _integers(values: dict[bytes, bytes], fields: Iterable[str]) -> dict[str, Any]:
    """Some fields of a hash, 0 where it lacks them."""
    return {field: int(values.get(field.encode(), 0)) for field in fields}
