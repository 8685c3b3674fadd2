"""The connection to Redis: made once, kept asking until it answers."""

import asyncio
import builtins
import logging
from collections.abc import Awaitable, Callable
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

FIRST_BACKOFF_S = 0.05
LONGEST_BACKOFF_S = 2.0
ANSWER_TIMEOUT_S = 10.0
CONNECTIONS = 32

# Redis answers, but can't serve now: out of memory, a replica, a cluster on the move. The client has a class for these,
# and takes their code out of the text.
_PASSING = (OutOfMemoryError, ReadOnlyError, MasterDownError, TryAgainError, ClusterDownError)
# The same for what it has no class for: a failed disk, a running script, too few replicas.
_PASSING_CODES = ("MISCONF", "BUSY", "NOREPLICAS")


async def connect_redis(settings: Settings, connect_timeout_s: float) -> Redis:
    """The Redis of the settings, once it answers. Raises Unavailable after the timeout, Refused at once."""
    password = settings.redis_password.get_secret_value() if settings.redis_password else None
    tls: dict[str, Any] = {}
    if settings.redis_tls:
        tls_context(
            "REDIS_CA_FILE", settings.redis_ca_file
        )  # says what is wrong with the file, if anything is
        ca_file = str(settings.redis_ca_file) if settings.redis_ca_file else None
        tls = {"connection_class": SSLConnection, "ssl_ca_certs": ca_file}
    # The client's own retries are off: a repeated claim would read as somebody else's, unless its caller knows.
    # Whoever finds no free connection waits: an error would read as a lost answer.
    pool = BlockingConnectionPool(
        max_connections=CONNECTIONS,
        timeout=None,
        host=settings.redis_host,
        port=settings.redis_port,
        db=settings.redis_db,
        password=password,
        socket_timeout=ANSWER_TIMEOUT_S,
        socket_connect_timeout=5.0,
        retry=Retry(NoBackoff(), 0),
        client_name="smsim",
        **tls,
    )
    client: Redis = Redis.from_pool(pool)
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


async def _warn_unless_durable(client: Redis) -> None:
    """The promise that nothing is lost when Redis dies holds only with the append-only file on, always."""
    try:
        config = await client.config_get("appendonly", "appendfsync")
    except RedisError:
        return  # CONFIG is often forbidden; then we can't know
    if (config.get("appendonly"), config.get("appendfsync")) != ("yes", "always"):
        log.warning(
            "ledger_not_durable",
            extra={
                "advice": "start Redis with --appendonly yes --appendfsync always, or a crash of it loses counts"
            },
        )


async def retry_until_answered(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Asks until Redis answers, with backoff: every call of the ledger may be repeated. Raises Refused."""
    backoff = Backoff(FIRST_BACKOFF_S, LONGEST_BACKOFF_S)
    while True:
        try:
            answer = await cancellable(ask)
        except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
            raise Refused(f"Redis refuses: {error}: check REDIS_PASSWORD") from None
        except (ConnectionError, TimeoutError, ResponseError, RuntimeError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Refused("Redis has a certificate that is not trusted: check REDIS_CA_FILE") from None
            if not _may_pass(error):
                raise
            if not backoff.begun:
                log.warning("ledger_unreachable", extra={"reason": str(error)})
            await backoff.pause()
        else:
            if backoff.begun:
                log.info("ledger_answers_again")
            return answer


async def cancellable(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Asks once. The client sends within `asyncio.wait_for`, which before Python 3.12 loses a cancellation that comes
    when it is done (python/cpython#86296): who cancelled would wait for good.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        return await ask()
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


def _may_pass(error: Exception) -> bool:
    """Whether trying again may help."""
    if isinstance(error, _PASSING):
        return True
    if isinstance(error, ResponseError):
        return str(error).startswith(_PASSING_CODES)
    if isinstance(error, RuntimeError):
        # What uvloop raises on a write to a connection that was reset; the client lets it through as it is.
        return "the handler is closed" in str(error)
    return True
