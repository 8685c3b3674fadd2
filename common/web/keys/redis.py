"""API keys in Redis: a hash, id -> JSON, and a hash of their last uses."""

import logging
from functools import partial

import msgspec

from common.redis import Client
from common.web.keys.port import ApiKey, Kind
from common.web.operations import Scope

log = logging.getLogger(__name__)


class _Stored(ApiKey, frozen=True, kw_only=True):
    kind: Kind | None = None  # type: ignore[assignment]  # keys of earlier versions have none


class RedisApiKeys:
    """Keys that all gateways on one Redis share."""

    def __init__(self, client: Client) -> None:
        self._redis = client
        self._names = client.names

    async def add(self, key: ApiKey) -> bool:
        value = msgspec.json.encode(key)
        await self._redis.until_answered(
            lambda: self._redis.write("HSETNX", self._names.api_keys, key.id, value)
        )
        # The value read back distinguishes an earlier try of this call, whose answer was lost, from another key.
        stands = await self._redis.until_answered(lambda: self._redis.hget(self._names.api_keys, key.id))
        return decoded(stands) == key

    async def all(self) -> dict[str, ApiKey]:
        found = await self._redis.until_answered(lambda: self._redis.hgetall(self._names.api_keys))
        readable: dict[str, ApiKey] = {}
        for key_id, value in found.items():
            try:
                readable[key_id.decode()] = decoded(value)
            except msgspec.MsgspecError:  # of a later version, perhaps: it is refused, and the others are not
                log.warning("key_unreadable", extra={"key": key_id.decode(errors="replace")})
        return readable

    async def revoke(self, key_id: str) -> None:
        for key in (self._names.api_keys, self._names.api_key_uses):
            await self._redis.until_answered(partial(self._redis.write, "HDEL", key, key_id))

    async def note_use(self, key_id: str, at_us: int) -> None:
        await self._redis.until_answered(lambda: self._redis.hset(self._names.api_key_uses, key_id, at_us))

    async def last_uses(self) -> dict[str, int]:
        found = await self._redis.until_answered(lambda: self._redis.hgetall(self._names.api_key_uses))
        return {key_id.decode(): int(at_us) for key_id, at_us in found.items()}


def decoded(stored: bytes) -> ApiKey:
    """The key as it was stored. One of an earlier version keeps what it could do: it sees the messages of all."""
    it = msgspec.json.decode(stored, type=_Stored)
    about = {name: getattr(it, name) for name in ApiKey.__struct_fields__}
    if it.kind is None:
        about |= {"kind": Kind.LIVE, "scopes": it.scopes | {Scope.ALL}}
    return ApiKey(**about)
