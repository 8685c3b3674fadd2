"""Authenticates callers by the API key of their request."""

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import HTTPConnection

from common.errors import UsageError
from common.web.keys.port import ALL_SCOPES, ApiKey, ApiKeys, Caller, digest_of, parts_of
from common.web.keys.strength import check_secret
from common.web.operations import Scope
from common.web.problems import Problem
from common.web.validation import repeated

log = logging.getLogger(__name__)

MOST_RECOGNISED = 1_000
SUBPROTOCOL = "key."

_ANONYMOUS = Caller("anonymous", "anonymous", ALL_SCOPES)
_SETTINGS = Caller("settings", "GATEWAY_API_KEY", ALL_SCOPES)

OF_THE_OPERATOR = frozenset({_ANONYMOUS.id, _SETTINGS.id})
"""The ids of callers without a key of their own."""
_NOBODY = digest_of("")  # no secret is empty


# The header fields that may hold a key, as they were sent: Authorization and X-API-Key.
_SentKey = tuple[bytes | None, bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTiming:
    """How long keys are cached.

    Attributes:
        kept_s: A revoked key is valid for this long, and for the duration of one read: less than 5 s.
        again_s: For an unknown key the keys are read again, no more often than this.
        uses_noted_s: The use of a key is noted no more often than this.
    """

    kept_s: float = 4.0
    again_s: float = 1.0
    uses_noted_s: float = 60.0


class _Recognised(NamedTuple):
    """A caller whose key was checked.

    Attributes:
        caller: Whose key it is.
        until_s: When it has to be checked again.
    """

    caller: Caller
    until_s: float


class Authenticator:
    """Checks API keys: those in `keys`, and `fixed_key`. Unless keys are `required`, a request without one is allowed.

    All keys are cached, since operators make few of them: neither memory nor the number of reads depends on what
    callers send. `clock` gives seconds, `unix` those since 1970. Raises UsageError if the fixed key is too weak.
    """

    def __init__(
        self,
        keys: ApiKeys,
        required: bool,
        fixed_key: str | None,
        clock: Callable[[], float] = time.monotonic,
        timing: KeyTiming | None = None,
        unix: Callable[[], float] = time.time,
    ) -> None:
        if fixed_key is not None:
            _check_fixed(fixed_key)
        self._keys = keys
        self._required = required
        self._fixed = None if fixed_key is None else digest_of(fixed_key)
        self._clock = clock
        self._unix = unix
        self._timing = timing or KeyTiming()
        self._held: dict[str, tuple[ApiKey, Caller]] = {}
        self._held_at = float("-inf")
        self._recognised: dict[_SentKey, _Recognised] = {}
        self._asking: asyncio.Task[None] | None = None
        self._noted_s: dict[str, float] = {}
        self._noting: set[asyncio.Task[None]] = set()

    async def authenticate(self, connection: HTTPConnection) -> Caller:
        """The caller of a request or a WebSocket. Raises Problem 401, or 400 for a header field that is there twice."""
        sent = _key_of(connection)
        if sent is None:
            if self._required:
                raise _unauthenticated("no API key: send it as Authorization: Bearer KEY, or X-API-Key: KEY")
            return _ANONYMOUS
        caller = await self._caller_of(sent)
        if caller is None:
            raise _unauthenticated("this API key is not in force: it is mistyped, or was revoked")
        self._check_end(caller)
        self._note_use(caller)
        if connection.scope["type"] == "http":  # a WebSocket's key may be elsewhere
            self._remember(dict(connection.headers.raw), caller)
        return caller

    def recognise(self, fields: Mapping[bytes, bytes]) -> Caller | None:
        """The caller of a request with these header fields, if that is known already; else `authenticate` knows."""
        bearer, key = fields.get(b"authorization"), fields.get(b"x-api-key")
        if bearer is None and key is None:
            return None if self._required else _ANONYMOUS
        found = self._recognised.get((bearer, key))
        return found.caller if found is not None and self._clock() <= found.until_s else None

    def require(self, caller: Caller, scope: Scope) -> None:
        """Raises Problem 403 unless the caller's key has the scope."""
        if scope not in caller.scopes:
            raise Problem(403, f"this API key lacks the scope {scope}: use one that was created with it")

    def _remember(self, fields: Mapping[bytes, bytes], caller: Caller) -> None:
        """So that `recognise` knows the caller for as long as the keys are held."""
        if len(self._recognised) >= MOST_RECOGNISED:
            self._recognised.clear()
        until_s = float("inf") if caller is _SETTINGS else self._held_at + self._timing.kept_s
        if (left_s := self._left_s(caller)) is not None:
            until_s = min(until_s, self._clock() + left_s)
        sent = (fields.get(b"authorization"), fields.get(b"x-api-key"))
        if sent != (None, None):
            self._recognised[sent] = _Recognised(caller, until_s)

    def _check_end(self, caller: Caller) -> None:
        left_s = self._left_s(caller)
        if left_s is not None and left_s <= 0:
            raise _unauthenticated("this API key has ended: use one that is in force")

    def _left_s(self, caller: Caller) -> float | None:
        """The seconds until a caller's key ends; None if it does not end."""
        key, _ = self._held.get(caller.id, (None, None))
        if key is None or key.expires_us is None or caller is _SETTINGS:
            return None
        return key.expires_us / 1e6 - self._unix()

    def _note_use(self, caller: Caller) -> None:
        """Notes the use of a key in the background, once a minute: no request waits for it."""
        now_s = self._clock()
        is_due = now_s - self._noted_s.get(caller.id, float("-inf")) >= self._timing.uses_noted_s
        if caller is not _SETTINGS and is_due:
            self._noted_s[caller.id] = now_s
            task = asyncio.create_task(self._keys.note_use(caller.id, int(self._unix() * 1e6)))
            self._noting.add(task)
            task.add_done_callback(self._noted)

    def _noted(self, task: asyncio.Task[None]) -> None:
        self._noting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("key_use_not_noted", extra={"reason": type(error).__name__})

    async def _caller_of(self, sent: str) -> Caller | None:
        if self._fixed is not None and hmac.compare_digest(digest_of(sent), self._fixed):
            return _SETTINGS
        parts = parts_of(sent)
        if parts is None:
            return None
        key_id, secret = parts
        await self._hold(self._timing.kept_s)
        if key_id not in self._held:
            await self._hold(self._timing.again_s)  # the key may be new
        key, caller = self._held.get(key_id, (None, None))
        # Compared for an unknown id as well, so that the duration reveals nothing.
        right = hmac.compare_digest(digest_of(secret), _NOBODY if key is None else key.digest)
        return caller if right else None

    async def _hold(self, no_older_than_s: float) -> None:
        """Reads the keys again if the cached ones are older than this. Concurrent requests share a read."""
        while self._clock() - self._held_at > no_older_than_s:
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask())
            # Cancelling one request must not cancel the read for the others.
            await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        asked_at = self._clock()
        try:
            keys = await self._keys.all()
        finally:
            self._asking = None
        self._held = {key.id: (key, key.caller) for key in keys.values()}
        self._noted_s = {key_id: at_s for key_id, at_s in self._noted_s.items() if key_id in keys}
        self._held_at = asked_at


def claimed_id(connection: HTTPConnection) -> str | None:
    """The id in the key that was sent, whether the key is right or not."""
    parts = parts_of(_key_of(connection) or "")
    return parts and parts[0]


def _key_of(connection: HTTPConnection) -> str | None:
    """The key that was sent. A browser can send it with a WebSocket only as a subprotocol. Raises Problem 400."""
    for name in ("Authorization", "X-API-Key"):
        if len(connection.headers.getlist(name)) > 1:
            raise repeated(f"header.{name}")
    scheme, _, credentials = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    sent = connection.headers.get("x-api-key")
    if sent is not None:
        return sent.strip()
    offered: list[str] = connection.scope.get("subprotocols", [])
    return next((name.removeprefix(SUBPROTOCOL) for name in offered if name.startswith(SUBPROTOCOL)), None)


def _check_fixed(key: str) -> None:
    """Raises UsageError unless a key is long enough and may stand in a header."""
    check_secret("GATEWAY_API_KEY", key)
    if not all("!" <= character <= "~" for character in key):
        raise UsageError("GATEWAY_API_KEY: use printable ASCII characters, and no spaces")


def _unauthenticated(detail: str) -> Problem:
    return Problem(401, detail, headers={"WWW-Authenticate": 'Bearer realm="smsim"'})
