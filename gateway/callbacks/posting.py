"""One attempt: a signed POST, and what its response means."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver

from common.tracking.wire import iso
from gateway.callbacks.address import IPAddress, guarded_socket
from gateway.callbacks.limits import CallbackLimits
from gateway.callbacks.port import Callback, FinalStatus
from gateway.callbacks.resolver import ThreadResolver
from gateway.callbacks.signing import Signer

OwnerOf = Callable[[str], Awaitable[str | None]]
"""Gives the id of the API key that a run's messages came with; None if they came with none."""


class PostResult(msgspec.Struct, frozen=True):
    """The result of an attempt.

    Attributes:
        status: The HTTP status; None without a response.
        reason: The HTTP status, or the class of the error. It contains nothing secret.
    """

    status: int | None
    reason: str
    took_s: float

    @property
    def delivered(self) -> bool:
        """Whether the receiver took the callback."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_last(self) -> bool:
        """Whether no further attempt is useful: the callback is delivered, or unwanted (410)."""
        return self.delivered or self.status == HTTPStatus.GONE


def body_of(callback: Callback, final: FinalStatus) -> bytes:
    """Returns the body, the same for each attempt. It leaves the text out, so that no further system sees it."""
    body = {
        "uuid": callback.uuid,
        "run": callback.run,
        "status": final.status,
        "number": callback.number,
        "attempts": final.attempts,
        "at": None if final.at_us is None else iso(final.at_us),
    }
    return msgspec.json.encode(body)


class Poster:
    """Posts callbacks in a session of `guarded_session`. `owner_of` gives the owner of a run."""

    def __init__(self, session: aiohttp.ClientSession, signer: Signer, owner_of: OwnerOf) -> None:
        self._session = session
        self._signer = signer
        self._owner_of = owner_of

    async def post(self, callback: Callback, final: FinalStatus) -> PostResult:
        """Posts a callback once. Raises UnknownRun or Unavailable if its owner cannot be read."""
        clock = asyncio.get_running_loop().time
        owner = await self._owner_of(callback.run)
        started_s = clock()
        try:
            status = await self._post(callback, final, owner)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # aiohttp and the codec of host names raise ValueError for some invalid URLs.
            cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
            return PostResult(None, type(cause).__name__, clock() - started_s)
        return PostResult(status, str(status), clock() - started_s)

    async def _post(self, callback: Callback, final: FinalStatus, owner: str | None) -> int:
        body, webhook_id = body_of(callback, final), f"{callback.uuid}.{final.status}"
        headers = self._signer.headers(owner, webhook_id, at_s=int(time.time()), body=body)
        # aiohttp closes the connection if the response's body has not arrived with its head.
        async with self._session.post(
            callback.url, data=body, headers=headers, allow_redirects=False
        ) as response:
            return response.status


@asynccontextmanager
async def guarded_session(
    allows: Callable[[IPAddress], bool], limits: CallbackLimits, resolver: AbstractResolver | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """Opens a session that connects to addresses that `allows` accepts, without proxies or cookies."""
    async with aiohttp.ClientSession(
        connector=_connector(allows, sum(limits.hosts.slots.values()), resolver),
        timeout=aiohttp.ClientTimeout(total=limits.attempt_s, connect=limits.connect_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        headers={"User-Agent": "smsim", "Content-Type": "application/json"},
    ) as session:
        yield session


def _connector(
    allows: Callable[[IPAddress], bool], slots: int, resolver: AbstractResolver | None
) -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(
        limit=slots,
        resolver=resolver or ThreadResolver(slots),
        use_dns_cache=False,
        socket_factory=guarded_socket(allows),
    )
