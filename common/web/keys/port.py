"""API keys, and what a store of them promises. One contract suite, tests/contract/test_api_keys.py, holds both to it.

A key is `smsim_<id>_<secret>`. The id is no secret: it names the key in lists, logs and limits.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Collection
from typing import Protocol

import msgspec

from common.web.operations import Scope

ALL_SCOPES = frozenset(Scope)
ID_CHARACTERS = 8
SECRET_BYTES = 32

_KEY = re.compile(r"smsim_([a-z2-7]{8})_([a-z2-7]{52})")


class Caller(msgspec.Struct, frozen=True):
    """Who calls, and what that allows."""

    id: str
    name: str
    scopes: frozenset[Scope]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key: all but its secret. `created_us` is Unix time in microseconds.

    `digest` is the SHA-256 of the secret. A slow password hash is for what people make up, which can be guessed; nobody
    guesses 256 random bits, however fast the hash, and a slow one would be a burden on each of thousands of requests.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    created_us: int
    digest: bytes


class ApiKeys(Protocol):
    """The keys that are in force. Every call gives the same when repeated."""

    async def add(self, key: ApiKey) -> bool:
        """Puts a key in force; False, and nothing done, where another one has its id."""

    async def all(self) -> dict[str, ApiKey]:
        """Every key in force, by id."""

    async def revoke(self, key_id: str) -> None:
        """This key is in force no longer, if it was."""


def new_key(name: str, scopes: Collection[Scope], created_us: int) -> tuple[ApiKey, str]:
    """A new key: what is kept of it, and the key itself, which can't be had again."""
    secret = _base32(secrets.token_bytes(SECRET_BYTES))
    key_id = _base32(secrets.token_bytes(ID_CHARACTERS * 5 // 8))
    key = ApiKey(
        id=key_id,
        name=name,
        scopes=frozenset(scopes),
        created_us=created_us,
        digest=digest_of(secret),
    )
    return key, f"smsim_{key_id}_{secret}"


def parts_of(key: str) -> tuple[str, str] | None:
    """Id and secret of a key; None where it has not the form of one."""
    found = _KEY.fullmatch(key)
    return (found[1], found[2]) if found else None


def digest_of(secret: str) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(secret.encode()).digest()


def _base32(octets: bytes) -> str:
    # Letters and digits only, so that a double click selects a key whole.
    return base64.b32encode(octets).decode().rstrip("=").lower()
