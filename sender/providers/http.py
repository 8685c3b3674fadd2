"""The HTTP provider: posts each message to PROVIDER_URL and reads the status of the response (docs/providers.md)."""

import math
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp
import msgspec
from yarl import URL

from common.errors import UsageError
from common.open_files import raise_file_limit
from common.settings import Settings
from sender.providers.port import OutgoingMessage, Result, TemporaryError
from sender.providers.responses import result_of
from sender.slots import Slots

NO_RESPONSE = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass(slots=True)
class Progress:
    """How far a request has come.

    Attributes:
        written: True from just before its first byte is written. The service may have the message from then on.
    """

    written: bool = False


class HttpProvider:
    """Posts messages as JSON, one request each, over pooled connections.

    `timeout_s` is for a whole send: from the connection to the end of the response.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = URL(url)
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def send(self, message: OutgoingMessage) -> Result:
        if self._session is None:
            self._session = _open_session(self._timeout_s)
        progress = Progress()
        request = self._session.post(
            self._url,
            data=msgspec.json.encode(message),
            headers={"Idempotency-Key": message.id},
            allow_redirects=False,
            trace_request_ctx=progress,
        )
        try:
            async with request as response:
                result = result_of(response.status, response.headers)
                await _read_body(response)
                return result
        except NO_RESPONSE as error:
            raise TemporaryError(type(error).__name__, ambiguous=progress.written) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def create(settings: Settings) -> HttpProvider:
    """The provider for PROVIDER_URL.

    Raises:
        UsageError: There is no valid URL, or the system allows fewer connections than the sender has slots.
    """
    if settings.provider_url is None:
        raise UsageError("PROVIDER=http needs PROVIDER_URL: where messages are posted to")
    try:
        (settings.provider_url.host or "").encode("idna")
    except UnicodeError:
        raise UsageError("PROVIDER_URL: its host is not a valid host name") from None
    require_connections(Slots(settings.sender_concurrency).total, raise_file_limit())
    return HttpProvider(str(settings.provider_url), settings.provider_timeout)


def _open_session(timeout_s: float) -> aiohttp.ClientSession:
    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(_mark_written)
    return aiohttp.ClientSession(
        # The sender's slots are the limit: in a full pool an urgent send would wait for bulk ones.
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=timeout_s, ceil_threshold=math.inf),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "smsim"},
        skip_auto_headers=["Accept-Encoding"],
        trace_configs=[tracing],
    )


async def _mark_written(
    _: aiohttp.ClientSession, context: SimpleNamespace, __: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.written = True


async def _read_body(response: aiohttp.ClientResponse) -> None:
    """Reads the body, so that the connection can be used again. The status counts even if the body is cut short."""
    try:
        while not response.content.is_eof():
            await response.content.readany()
    except NO_RESPONSE:
        response.close()


def require_connections(connections: int, limit: int, spare: int = 100) -> None:
    """Returns if the limit leaves room for this many connections beside `spare` files of other use.

    Raises:
        UsageError: The limit is too low.
    """
    if connections + spare > limit:
        raise UsageError(
            f"{connections} sends in flight need as many connections, and this system allows {limit} open files: "
            "lower SENDER_CONCURRENCY, or raise the limit (ulimit -n)"
        )
