"""API keys, and what a store of them promises. tests/contract/test_api_keys.py holds every implementation to it.

A key is `smsim_<id>_<secret>`. The id is public: it names the key in lists, logs and limits.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Collection
from enum import StrEnum
from typing import Protocol

import msgspec

from common.web.operations import Scope

ALL_SCOPES = frozenset(Scope)
OWN_SCOPES = frozenset({Scope.SEND, Scope.READ})
ID_CHARACTERS = 8
SECRET_BYTES = 32

_KEY = re.compile(r"smsim_([a-z2-7]{8})_([a-z2-7]{52})")


class Kind(StrEnum):
    """What becomes of the messages that come with an API key."""

    LIVE = "live"
    TEAM = "team"  # they may go to listed numbers only
    TEST = "test"  # they are simulated, whatever PROVIDER is


class Caller(msgspec.Struct, frozen=True):
    """Who sends a request.

    Attributes:
        id: The id of the API key.
        name: The name of the key.
        scopes: What the key allows.
        kind: The kind of the key.
        numbers: The numbers that a team key may send to, in E.164 form.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    kind: Kind = Kind.LIVE
    numbers: frozenset[str] = frozenset()

    @property
    def sees_all(self) -> bool:
        """Whether it sees the messages of other keys, too."""
        return Scope.ALL in self.scopes

    def may_send_to(self, number: str) -> bool:
        """Whether its messages may go to a number."""
        return self.kind is not Kind.TEAM or number in self.numbers


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret.

    A password hash would be slow on purpose, since passwords can be guessed. 256 random bits can't, and thousands of
    requests a second are checked.

    Attributes:
        id: Names the key.
        name: What it is for.
        scopes: What it allows.
        created_us: Unix time in microseconds.
        digest: The SHA-256 of the secret.
        kind: What becomes of its messages.
        numbers: The numbers that a team key may send to, in E.164 form.
        expires_us: When it ends, Unix time in microseconds; None: it does not end.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    created_us: int
    digest: bytes
    kind: Kind = Kind.LIVE
    numbers: frozenset[str] = frozenset()
    expires_us: int | None = None

    @property
    def caller(self) -> Caller:
        """Who sends a request with it."""
        return Caller(self.id, self.name, self.scopes, kind=self.kind, numbers=self.numbers)


class ApiKeys(Protocol):
    """The valid keys. Every call can be repeated."""

    async def add(self, key: ApiKey) -> bool:
        """Adds a key. False, and nothing is changed, if another key has its id."""

    async def all(self) -> dict[str, ApiKey]:
        """Every valid key, by id."""

    async def revoke(self, key_id: str) -> None:
        """Removes a key, if it exists."""

    async def note_use(self, key_id: str, at_us: int) -> None:
        """Notes when a key was used, Unix time in microseconds."""

    async def last_uses(self) -> dict[str, int]:
        """When each key was used last, by id, as noted; keys that were not used are missing."""


def new_key(
    name: str,
    scopes: Collection[Scope],
    created_us: int,
    *,
    kind: Kind = Kind.LIVE,
    numbers: Collection[str] = (),
    expires_us: int | None = None,
) -> tuple[ApiKey, str]:
    """A new key: the part that is stored, and the whole key, which is shown once."""
    secret = _base32(secrets.token_bytes(SECRET_BYTES))
    key_id = _base32(secrets.token_bytes(ID_CHARACTERS * 5 // 8))
    key = ApiKey(
        id=key_id,
        name=name,
        scopes=frozenset(scopes),
        created_us=created_us,
        digest=digest_of(secret),
        kind=kind,
        numbers=frozenset(numbers),
        expires_us=expires_us,
    )
    return key, f"smsim_{key_id}_{secret}"


def parts_of(key: str) -> tuple[str, str] | None:
    """Id and secret of a key; None if it does not have the form of a key."""
    found = _KEY.fullmatch(key)
    return (found[1], found[2]) if found else None


def digest_of(secret: str) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(secret.encode()).digest()


def _base32(octets: bytes) -> str:
    # Letters and digits only, so that a double click selects the whole key.
    return base64.b32encode(octets).decode().rstrip("=").lower()
