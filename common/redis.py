"""The client of Redis, and calls that are repeated until Redis answers."""

import asyncio
import builtins
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from common.backoff import Backoff
from common.errors import Refused, Unavailable
from common.settings import Settings
from common.tls import tls_context

log = logging.getLogger(__name__)

Client = Redis


@dataclass(frozen=True, slots=True)
class RedisTiming:
    """The timing of the client, in seconds.

    Attributes:
        first_backoff_s: First pause before a call is repeated; the next pauses double.
        longest_backoff_s: Longest pause.
        connect_s: How long to connect may take.
        answer_s: How long an answer may take.
    """

    first_backoff_s: float = 0.05
    longest_backoff_s: float = 2.0
    connect_s: float = 5.0
    answer_s: float = 10.0

    def backoff(self) -> Backoff:
        """The pauses between the attempts of one call."""
        return Backoff(self.first_backoff_s, self.longest_backoff_s)


TIMING = RedisTiming()
CONNECTIONS = 32

# Redis answers, but cannot serve now: out of memory, a replica, a cluster that is being resharded. The client has
# classes for these, and removes their codes from the text.
_TEMPORARY = (OutOfMemoryError, ReadOnlyError, MasterDownError, TryAgainError, ClusterDownError)
# The codes of those it has no class for: a failed disk, a running script, too few replicas.
_TEMPORARY_CODES = ("MISCONF", "BUSY", "NOREPLICAS")


async def connect_redis(settings: Settings, connect_timeout_s: float) -> Redis:
    """The Redis of the settings, once it answers. Raises Unavailable after the timeout, Refused at once."""
    client: Redis = Redis.from_pool(_pool(settings))
    where = f"Redis at {settings.redis_host}:{settings.redis_port}"
    try:
        async with asyncio.timeout(connect_timeout_s):
            await retry_until_answered(client.ping)
    except builtins.TimeoutError:
        await client.aclose()
        raise Unavailable(
            f"{where} did not answer within {connect_timeout_s:g} s: is it running? (REDIS_HOST, REDIS_PORT)"
        ) from None
    except Refused:
        await client.aclose()
        raise
    except RedisError as error:
        await client.aclose()
        raise Refused(f"{where} refuses: {error}") from None
    await _warn_unless_durable(client)
    return client


def _pool(settings: Settings, timing: RedisTiming = TIMING) -> BlockingConnectionPool:
    # The client's own retries are off: a repeated claim would be taken for another sender's, unless its caller knows.
    # A caller that finds no free connection waits: an error would be taken for a lost answer.
    return BlockingConnectionPool(
        max_connections=CONNECTIONS,
        timeout=None,
        host=settings.redis_host,
        port=settings.redis_port,
        db=settings.redis_db,
        password=settings.redis_password.get_secret_value() if settings.redis_password else None,
        socket_timeout=timing.answer_s,
        socket_connect_timeout=timing.connect_s,
        retry=Retry(NoBackoff(), 0),
        client_name="smsim",
        **_tls(settings),
    )


def _tls(settings: Settings) -> dict[str, Any]:
    """The arguments of a connection by TLS, if the settings ask for it. Raises UsageError for a bad file."""
    if not settings.redis_tls:
        return {}
    tls_context(
        "REDIS_CA_FILE", settings.redis_ca_file
    )  # raises for a bad file; the client makes its own context
    ca_file = str(settings.redis_ca_file) if settings.redis_ca_file else None
    return {"connection_class": SSLConnection, "ssl_ca_certs": ca_file}


async def _warn_unless_durable(client: Redis) -> None:
    """Nothing is lost in a crash of Redis only if its append-only file is written always."""
    try:
        config = await client.config_get("appendonly", "appendfsync")
    except RedisError:
        return  # CONFIG is often forbidden
    if (config.get("appendonly"), config.get("appendfsync")) != ("yes", "always"):
        log.warning(
            "ledger_not_durable",
            extra={
                "advice": "start Redis with --appendonly yes --appendfsync always, or a crash of it loses counts"
            },
        )


async def retry_until_answered(ask: Callable[[], Awaitable[Any]], timing: RedisTiming = TIMING) -> Any:
    """Repeats a call, with backoff, until Redis answers. Every call of the ledger may be repeated. Raises Refused."""
    backoff = timing.backoff()
    while True:
        try:
            answer = await cancellable(ask)
        except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
            raise Refused(f"Redis refuses: {error}: check REDIS_PASSWORD") from None
        except (ConnectionError, TimeoutError, ResponseError, RuntimeError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Refused("Redis has a certificate that is not trusted: check REDIS_CA_FILE") from None
            if not _is_temporary(error):
                raise
            if not backoff.begun:
                log.warning("ledger_unreachable", extra={"reason": str(error)})
            await backoff.pause()
        else:
            if backoff.begun:
                log.info("ledger_answers_again")
            return answer


async def cancellable(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Makes a call once. The client sends within `asyncio.wait_for`, which before Python 3.12 loses a cancellation that
    arrives as it ends (python/cpython#86296); the canceller would wait forever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        return await ask()
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


def _is_temporary(error: Exception) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(error, _TEMPORARY):
        return True
    if isinstance(error, ResponseError):
        return str(error).startswith(_TEMPORARY_CODES)
    if isinstance(error, RuntimeError):
        # uvloop raises it for a write to a connection that was reset, and the client does not convert it.
        return "the handler is closed" in str(error)
    return True
