"""The connections to Redis: to the host of the settings, or to the primary that the Sentinels name."""

import time
from collections.abc import Mapping
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError

from common.hosts import Address
from common.redis.timing import RedisTiming
from common.settings import Settings
from common.tls import tls_context

CONNECTIONS = 32


class Endpoint:
    """Where Redis is, for all connections of a client.

    Attributes:
        name: The server, for people.
        epoch: Grows whenever all connections made so far are to be replaced.
        connection_s: Age at which a connection is replaced.
    """

    def __init__(self, settings: Settings, timing: RedisTiming) -> None:
        self.epoch = 0
        self.connection_s = timing.connection_s
        self._address = Address(settings.redis_host, settings.redis_port)
        self.name = f"Redis at {self._address}"
        self._primary = settings.redis_sentinel_master
        self._sentinel: Sentinel | None = None
        if settings.redis_sentinels:
            self.name = f"the primary {self._primary!r} of the Sentinels {settings.redis_sentinels}"
            self._sentinel = _sentinel(settings, timing)

    async def address(self) -> Address:
        """The address now. Raises redis.ConnectionError if no Sentinel names a primary that is up."""
        if self._sentinel is None:
            return self._address
        try:
            return Address(*await self._sentinel.discover_master(self._primary))
        except MasterNotFoundError:  # its text has every Sentinel's whole description
            raise ConnectionError(f"no Sentinel names a primary {self._primary!r} that is up") from None

    async def close(self) -> None:
        """Closes the connections to the Sentinels."""
        if self._sentinel is not None:
            await self._sentinel.aclose()


class _Renewed(Connection):
    """A connection that is replaced when its epoch is over, or when it is old."""

    def __init__(self, *, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(**options)
        self._endpoint = endpoint
        self._epoch = endpoint.epoch
        self._until_s = 0.0

    async def connect(self) -> None:
        if self.is_connected and self._epoch != self._endpoint.epoch:
            await self.disconnect(nowait=True)
        if not self.is_connected:
            self._epoch = self._endpoint.epoch
            self._until_s = time.monotonic() + self._endpoint.connection_s
            self.host, self.port = await self._endpoint.address()
        await super().connect()  # type: ignore[no-untyped-call]

    def should_reconnect(self) -> bool:
        """Whether the pool drops it when it is released."""
        is_over = self._epoch != self._endpoint.epoch or time.monotonic() >= self._until_s
        return is_over or bool(super().should_reconnect())  # type: ignore[no-untyped-call]


class _RenewedTls(_Renewed, SSLConnection):
    """The same over TLS."""


def connection_pool(settings: Settings, endpoint: Endpoint, timing: RedisTiming) -> BlockingConnectionPool:
    """The connections of a client. A caller that finds none free waits: an error would be taken for a lost answer."""
    return BlockingConnectionPool(
        max_connections=CONNECTIONS,
        timeout=None,
        connection_class=_RenewedTls if settings.redis_tls else _Renewed,
        endpoint=endpoint,
        db=settings.redis_db,
        username=settings.redis_user,
        password=_secret(settings.redis_password),
        socket_timeout=timing.answer_s,
        socket_connect_timeout=timing.connect_s,
        # The client's own retries are off: a repeated claim passes for another sender's, unless its caller knows.
        retry=_once(),
        client_name="smsim",
        **_tls(settings),
    )


def _sentinel(settings: Settings, timing: RedisTiming) -> Sentinel:
    options = {
        "password": _secret(settings.redis_sentinel_password),
        "socket_timeout": timing.connect_s,
        "socket_connect_timeout": timing.connect_s,
        "retry": _once(),
        "ssl": settings.redis_tls,
        **_tls(settings),
    }
    return Sentinel(settings.sentinels, sentinel_kwargs=options)  # type: ignore[no-untyped-call]


def _tls(settings: Settings) -> Mapping[str, Any]:
    """The arguments of a connection by TLS, if the settings ask for it. Raises UsageError for a bad file."""
    if not settings.redis_tls:
        return {}
    # Raises for a bad file; the client makes its own context.
    tls_context("REDIS_CA_FILE", settings.redis_ca_file)
    return {"ssl_ca_certs": str(settings.redis_ca_file) if settings.redis_ca_file else None}


def _secret(secret: Any) -> str | None:
    return secret.get_secret_value() if secret else None


def _once() -> Retry:
    return Retry(NoBackoff(), 0)
