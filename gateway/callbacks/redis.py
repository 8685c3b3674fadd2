"""Callbacks in Redis: a hash each, a sorted set of when to look at which, and one Lua call a change."""

from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from secrets import token_hex
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from common import keys
from common.redis import retry_until_answered
from common.tracking.port import Record
from gateway.callbacks.port import FIRST_LOOK_S, RETRY_ROOM_S, Ending, Owed

# Callbacks in one call at most: taking so many holds Redis up for 2.5 to 4 ms (measured).
PIECE = 500


class RedisCallbacks:
    """Callbacks that all gateways on one Redis share. `ttl_s` is how long a message is waited for."""

    def __init__(self, client: Redis, ttl_s: float = 86_400) -> None:
        self._ttl_s = ttl_s
        self._redis = client
        lua = files("gateway.callbacks") / "lua"
        self._scripts: dict[str, AsyncScript] = {
            name: client.register_script((lua / f"{name}.lua").read_text())
            for name in ("owe", "due", "take", "put_off")
        }

    @property
    def ttl_s(self) -> float:
        return self._ttl_s

    async def owe(self, records: Sequence[Record]) -> None:
        for i in range(0, len(records), PIECE):
            piece = records[i : i + PIECE]
            args: list[Any] = [_us(FIRST_LOOK_S), int((self._ttl_s + RETRY_ROOM_S) * 1000)]
            for record in piece:
                args += [record.uuid, record.number, record.callback_url]
            await self._call("owe", [record.uuid for record in piece], args)

    async def due(self, limit: int) -> list[str]:
        return [uuid.decode() for uuid in await self._call("due", [], [limit])]

    async def take(self, uuids: Sequence[str], lease_s: float) -> list[Owed]:
        taken = []
        for i in range(0, len(uuids), PIECE):
            piece, token = uuids[i : i + PIECE], token_hex(8)
            answers = await self._call("take", piece, [token, _us(lease_s), *piece])
            taken += [
                _owed(uuid, answer, token) for uuid, answer in zip(piece, answers, strict=True) if answer
            ]
        return taken

    async def put_off(self, later: Sequence[tuple[Owed, float]]) -> None:
        for i in range(0, len(later), PIECE):
            piece = later[i : i + PIECE]
            args: list[Any] = []
            for owed, delay_s in piece:
                ending = b"" if owed.ending is None else msgspec.json.encode(owed.ending)
                args += [owed.uuid, owed.lease, _us(delay_s), owed.tries, ending]
            await self._call("put_off", [owed.uuid for owed, _ in piece], args)

    async def drop(self, uuids: Sequence[str]) -> None:
        async def delete(piece: Sequence[str]) -> None:
            pipe = self._redis.pipeline(transaction=False)
            pipe.delete(*(keys.callback(uuid) for uuid in piece))
            pipe.zrem(keys.CALLBACKS, *piece)
            await pipe.execute()

        for i in range(0, len(uuids), PIECE):
            piece = uuids[i : i + PIECE]
            await retry_until_answered(partial(delete, piece))

    async def _call(self, script: str, uuids: Sequence[str], args: list[Any]) -> Any:
        names = [keys.CALLBACKS, *(keys.callback(uuid) for uuid in uuids)]
        return await retry_until_answered(lambda: self._scripts[script](keys=names, args=args))


def _owed(uuid: str, answer: list[bytes], token: str) -> Owed:
    run, _, seq = uuid.rpartition(".")
    number, url, age_us, tries, ending = answer
    return Owed(
        run=run,
        seq=int(seq),
        number=number.decode(),
        url=url.decode(),
        age_s=int(age_us) / 1e6,
        tries=int(tries),
        ending=msgspec.json.decode(ending, type=Ending) if ending else None,
        lease=token,
    )


def _us(seconds: float) -> int:
    return int(seconds * 1e6)
