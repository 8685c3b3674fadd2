"""API keys in Redis: a hash, id -> JSON, and a hash of their last uses."""

from typing import Any

import msgspec
from redis.asyncio import Redis

from common import keys
from common.redis import retry_until_answered
from common.web.keys.port import ApiKey, Kind
from common.web.operations import Scope


class _Stored(ApiKey, frozen=True, kw_only=True):
    kind: Kind | None = None  # type: ignore[assignment]  # keys of earlier versions have none


class RedisApiKeys:
    """Keys that all gateways on one Redis share."""

    def __init__(self, client: Redis) -> None:
        self._redis = client

    async def add(self, key: ApiKey) -> bool:
        async def set_and_get() -> list[Any]:
            # The value read back distinguishes an earlier try of this call, whose answer was lost, from another key.
            pipe = self._redis.pipeline(transaction=False)
            pipe.hsetnx(keys.API_KEYS, key.id, msgspec.json.encode(key))
            pipe.hget(keys.API_KEYS, key.id)
            return await pipe.execute()

        _, stands = await retry_until_answered(set_and_get)
        return decoded(stands) == key

    async def all(self) -> dict[str, ApiKey]:
        found = await retry_until_answered(lambda: self._redis.hgetall(keys.API_KEYS))
        return {key_id.decode(): decoded(value) for key_id, value in found.items()}

    async def revoke(self, key_id: str) -> None:
        async def remove() -> None:
            pipe = self._redis.pipeline(transaction=False)
            pipe.hdel(keys.API_KEYS, key_id)
            pipe.hdel(keys.API_KEY_USES, key_id)
            await pipe.execute()

        await retry_until_answered(remove)

    async def note_use(self, key_id: str, at_us: int) -> None:
        await retry_until_answered(lambda: self._redis.hset(keys.API_KEY_USES, key_id, at_us))

    async def last_uses(self) -> dict[str, int]:
        found = await retry_until_answered(lambda: self._redis.hgetall(keys.API_KEY_USES))
        return {key_id.decode(): int(at_us) for key_id, at_us in found.items()}


def decoded(stored: bytes) -> ApiKey:
    """The key as it was stored. One of an earlier version keeps what it could do: it sees the messages of all."""
    it = msgspec.json.decode(stored, type=_Stored)
    about = {name: getattr(it, name) for name in ApiKey.__struct_fields__}
    if it.kind is None:
        about |= {"kind": Kind.LIVE, "scopes": it.scopes | {Scope.ALL}}
    return ApiKey(**about)
