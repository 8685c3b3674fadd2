"""Idempotency keys in Redis: one hash a key, one Lua call a change."""

import hashlib
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis

from common import keys
from common.redis import retry_until_answered
from gateway.idempotency.port import KEPT_S, Found, Reservation

_KEPT_MS = int(KEPT_S * 1000)


class RedisIdempotency:
    """Shared by all gateways on this Redis."""

    def __init__(self, client: Redis) -> None:
        lua = files("gateway.idempotency")
        self._reserve = client.register_script((lua / "reserve.lua").read_text())
        self._change = client.register_script((lua / "change.lua").read_text())

    async def reserve(
        self, caller: str, key: str, fingerprint: str, token: str, lease_s: float
    ) -> Reservation:
        args: list[Any] = [fingerprint, token, int(lease_s * 1000), _KEPT_MS]
        found, answer = await retry_until_answered(
            lambda: self._reserve(keys=[_entry(caller, key)], args=args)
        )
        return Reservation(Found(found.decode()), answer or None)

    async def plan(self, caller: str, key: str, token: str, answer: bytes) -> None:
        await self._do("plan", caller, key, token, answer)

    async def done(self, caller: str, key: str, token: str, answer: bytes) -> None:
        await self._do("done", caller, key, token, answer)

    async def void(self, caller: str, key: str, token: str, lease_s: float) -> bool:
        return await self._do("void", caller, key, token, b"", lease_s)

    async def pass_on(self, caller: str, key: str, token: str) -> None:
        await self._do("pass_on", caller, key, token, b"")

    async def release(self, caller: str, key: str, token: str) -> None:
        await self._do("release", caller, key, token, b"")

    async def _do(
        self, what: str, caller: str, key: str, token: str, answer: bytes, lease_s: float = 0
    ) -> bool:
        """Whether the entry was still its holder's."""
        args: list[Any] = [token, what, answer, _KEPT_MS, int(lease_s * 1000)]
        return bool(await retry_until_answered(lambda: self._change(keys=[_entry(caller, key)], args=args)))


def _entry(caller: str, key: str) -> str:
    """A digest stands for the key: its holder may have put anything into it."""
    return keys.idempotency(caller, hashlib.sha256(key.encode()).hexdigest())
