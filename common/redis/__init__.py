"""The client of Redis. Every service connects by `connect_redis`."""

import asyncio
import builtins
import logging

from common.errors import Refused, Unavailable
from common.redis.client import Client, cancellable
from common.redis.connections import CONNECTIONS
from common.redis.timing import TIMING, RedisTiming
from common.settings import Settings

__all__ = ["CONNECTIONS", "TIMING", "Client", "RedisTiming", "cancellable", "connect_redis"]

log = logging.getLogger(__name__)


async def connect_redis(settings: Settings, connect_timeout_s: float) -> Client:
    """The Redis of the settings, once it answers. Raises Unavailable after the timeout, Refused at once."""
    client = Client(settings)
    try:
        async with asyncio.timeout(connect_timeout_s):
            await client.until_answered(client.ping)
            await client.check_replicas()
    except builtins.TimeoutError:
        await client.aclose()
        where = (
            "REDIS_SENTINELS, REDIS_SENTINEL_MASTER" if settings.redis_sentinels else "REDIS_HOST, REDIS_PORT"
        )
        why = f": {client.last_outage}" if client.last_outage else ""
        raise Unavailable(
            f"{client.endpoint.name} did not answer within {connect_timeout_s:g} s{why}: is it running? ({where})"
        ) from None
    except BaseException:
        await client.aclose()
        raise
    await _warn_of_losses(client)
    return client


async def _warn_of_losses(client: Client) -> None:
    """Nothing is lost in a crash of Redis only if its append-only file is written always, and it must not evict."""
    config = await _config(client)
    if "appendonly" in config and (config["appendonly"], config["appendfsync"]) != ("yes", "always"):
        advice = "start Redis with --appendonly yes --appendfsync always, or a crash of it loses counts"
        log.warning("ledger_not_durable", extra={"advice": advice})
    policy = config.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        advice = (
            "set maxmemory-policy to noeviction, or Redis removes messages and counts when its memory is full"
        )
        log.warning("ledger_may_be_evicted", extra={"maxmemory_policy": policy, "advice": advice})


async def _config(client: Client) -> dict[str, str]:
    """What can be read of Redis's configuration. CONFIG is often forbidden, INFO seldom."""
    try:
        found: dict[str, str] = await client.once(
            lambda: client.config_get("appendonly", "appendfsync", "maxmemory-policy")
        )
    except (Refused, Unavailable):
        try:
            memory = await client.once(lambda: client.info("memory"))
        except (Refused, Unavailable):
            return {}
        found = {"maxmemory-policy": memory.get("maxmemory_policy", "noeviction")}
    return found
