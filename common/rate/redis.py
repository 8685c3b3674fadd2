"""The rate limit in Redis: one hash and one Lua call, by Redis's own clock."""

from importlib.resources import files

from common.messages import Lane
from common.rate.port import TIMING, Grant, bucket_of, part_of, wait_for
from common.redis import Client


class RedisRateLimit:
    """`rate` in messages per second, over all that use this key (`Keys.rate`)."""

    def __init__(self, client: Client, key_name: str, rate: float) -> None:
        self.rate = rate
        self._redis = client
        self._key = key_name
        self._take = client.register_script((files("common.rate") / "take.lua").read_text())
        self._constants = [
            bucket_of(rate),
            part_of(rate),
            int(TIMING.longest_wait_s * 1e6),
            int(TIMING.patience_s * 1e6),
        ]

    async def take(self, lane: Lane, wanted: int) -> Grant:
        if wanted <= 0:
            return Grant(0, 0)
        args = [self.rate, wanted, int(lane is Lane.URGENT), *self._constants]
        # A repeated take counts twice, which grants too few for a moment and never too many.
        granted, wait_us = await self._redis.until_answered(lambda: self._take(keys=[self._key], args=args))
        return Grant(granted, wait_for(wait_us / 1e6) if granted < wanted else 0)
