"""API keys in Redis: one hash, id -> JSON."""

from typing import Any

import msgspec
from redis.asyncio import Redis

from common import keys
from common.redis import retry_until_answered
from common.web.keys.port import ApiKey


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
        return msgspec.json.decode(stands, type=ApiKey) == key

    async def all(self) -> dict[str, ApiKey]:
        found = await retry_until_answered(lambda: self._redis.hgetall(keys.API_KEYS))
        return {key_id.decode(): msgspec.json.decode(value, type=ApiKey) for key_id, value in found.items()}

    async def revoke(self, key_id: str) -> None:
        await retry_until_answered(lambda: self._redis.hdel(keys.API_KEYS, key_id))
