"""One delivery: a signed POST, and what the receiver's answer means."""

import hashlib
import hmac
import time
from collections.abc import Callable
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver

from common.tracking.port import Status
from common.tracking.wire import iso
from gateway.callbacks.address import guarded_socket
from gateway.callbacks.names import Names
from gateway.callbacks.port import Ending, Owed

TIME_LIMIT_S = 10.0
# Of these for name, connection and TLS: who listens takes part of a second, who does not by then never will.
CONNECT_LIMIT_S = 3.0
# So much of an answer is read, for the connection to be of use again; what it says does not matter.
ANSWER_BYTES = 16 * 1024
GONE = 410


class CallbackBody(msgspec.Struct, frozen=True):
    """What a receiver is told. The text is left out: the receiver's side wrote it, and knows it by the uuid; so it goes
    over no further wire and into no further log. `at` is null where the time of the end was lost.
    """

    uuid: str
    run: str
    status: Status
    number: str
    attempts: int
    at: str | None


class Answer(Enum):
    """What came of a delivery."""

    DELIVERED = "delivered"
    FAILED = "failed"  # try again later
    GONE = "gone"  # the receiver wants no more of it


def body_of(owed: Owed, ending: Ending) -> bytes:
    """The JSON that is posted; the same at each try."""
    at = None if ending.at_us is None else iso(ending.at_us)
    body = CallbackBody(owed.uuid, owed.run, ending.status, owed.number, ending.attempts, at)
    return msgspec.json.encode(body)


def signature(secret: str, at_s: int, body: bytes) -> str:
    """The header X-Smsim-Signature: HMAC-SHA256 of `<at_s>.<body>`, so that a receiver can refuse what is old, too."""
    digest = hmac.new(secret.encode(), b"%d." % at_s + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


class Poster:
    """Posts callbacks to allowed addresses, from within `async with`. No redirect, proxy or cookie is heeded."""

    def __init__(
        self,
        secret: str,
        connections: int,
        allows: Callable[[IPv4Address | IPv6Address], bool],
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._secret = secret
        self._connections = connections
        self._allows = allows
        self._resolver = resolver

    async def __aenter__(self) -> "Poster":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections,
                resolver=self._resolver or Names(self._connections),
                use_dns_cache=False,
                socket_factory=guarded_socket(self._allows),
            ),
            timeout=aiohttp.ClientTimeout(total=TIME_LIMIT_S, connect=CONNECT_LIMIT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"User-Agent": "smsim", "Content-Type": "application/json"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def post(self, owed: Owed, ending: Ending) -> tuple[Answer, str]:
        """Tries one delivery; gives what came of it, and why, in words that are fit for a log."""
        body = body_of(owed, ending)
        headers = {
            "X-Smsim-Signature": signature(self._secret, int(time.time()), body),
            "X-Smsim-Delivery": f"{owed.uuid}.{ending.status}",
        }
        try:
            async with self._session.post(
                owed.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                if answer.status == GONE:
                    return Answer.GONE, "410"
                if not 200 <= answer.status < 300:
                    return Answer.FAILED, str(answer.status)
                await _read_off(answer)
                return Answer.DELIVERED, str(answer.status)
        except aiohttp.ClientConnectorError as error:
            return Answer.FAILED, type(error.os_error).__name__
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # A ValueError is a URL or a name that aiohttp or the codec for names can't do with.
            return Answer.FAILED, type(error).__name__


async def _read_off(answer: aiohttp.ClientResponse) -> None:
    """Reads a short answer to its end; a connection with a longer one, or a slow one, is closed by aiohttp."""
    left = ANSWER_BYTES
    try:
        while left > 0 and (piece := await answer.content.read(left)):
            left -= len(piece)
    except (aiohttp.ClientError, TimeoutError):
        return  # it was accepted, whatever it went on to say
