"""The stores that services share, built in one place: in Redis, or in memory.

Every command, test and study that needs a store as production has it gets it from here.
"""

import logging
from dataclasses import dataclass
from typing import Self

from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.ledger.redis import RedisLedger
from common.rate.memory import MemoryRateLimit
from common.rate.port import RateLimit
from common.rate.redis import RedisRateLimit
from common.redis import Client, connect_redis
from common.settings import Settings
from common.tracking.memory import MemoryTracker
from common.tracking.port import Tracker
from common.tracking.redis import RedisTracker
from common.web.keys.memory import MemoryApiKeys
from common.web.keys.port import ApiKeys
from common.web.keys.redis import RedisApiKeys

log = logging.getLogger(__name__)

DAY_S = 86_400
HOUR_S = 3_600


@dataclass(frozen=True)
class Stores:
    """What the services keep. Closes the stores on leaving an `async with` block.

    Attributes:
        tracker: Steps and texts of single messages.
        rate_limit: How many sends may begin, over all senders; None without PROVIDER_RATE.
    """

    ledger: Ledger
    tracker: Tracker
    rate_limit: RateLimit | None
    api_keys: ApiKeys

    async def close(self) -> None:
        """Sends the steps that wait, then closes the connections."""
        await self.tracker.close()
        await self.ledger.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@dataclass(frozen=True)
class RedisStores(Stores):
    """The stores in Redis.

    Attributes:
        client: The connections that all of them use, for what a service keeps besides.
    """

    client: Client


async def connect_stores(settings: Settings, connect_timeout_s: float) -> RedisStores:
    """The stores in the Redis of the settings, once it answers.

    Raises Unavailable if it does not answer within the timeout, and Refused at once if it refuses.
    """
    client = await connect_redis(settings, connect_timeout_s)
    limit = None
    if settings.provider_rate is not None:
        limit = RedisRateLimit(client, client.names.rate(settings.queue_name), settings.provider_rate)
    return RedisStores(
        ledger=RedisLedger(client, settings.run_ttl * DAY_S),
        tracker=RedisTracker(client),
        rate_limit=limit,
        api_keys=RedisApiKeys(client),
        client=client,
    )


async def warn_of_another_queue(client: Client, settings: Settings) -> None:
    """Warns if the messages of another queue count under the same prefix."""
    ttl_s = max(1, int(settings.run_ttl * DAY_S))
    name, queue = client.names.queue, settings.queue_name.encode()
    found = await client.until_answered(lambda: client.set(name, queue, nx=True, get=True, ex=ttl_s))
    if found is not None and found != queue:
        log.warning(
            "another_queue_in_this_stack",
            extra={
                "queue": settings.queue_name,
                "other": found.decode(),
                "hint": f"STACK={settings.stack} counts both: give each queue a STACK of its own",
            },
        )


def memory_stores(
    settings: Settings, ledger: MemoryLedger | None = None, tracker: MemoryTracker | None = None
) -> Stores:
    """The stores in memory; `ledger` and `tracker` may be the caller's own."""
    rate = settings.provider_rate
    return Stores(
        ledger=ledger or MemoryLedger(),
        tracker=tracker or MemoryTracker(settings.message_ttl * HOUR_S),
        rate_limit=None if rate is None else MemoryRateLimit(rate),
        api_keys=MemoryApiKeys(),
    )
