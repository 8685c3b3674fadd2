"""What the record of Idempotency-Keys promises. tests/contract/test_idempotency.py holds every implementation to it.

A key is reserved before anything is done, then planned: what will be answered, as soon as that is known and before
anything is published; then done. Whoever finds a key that is planned and whose holder is gone carries the plan out:
publishing the same messages again is safe, so the key's message is sent, and counted, once.

Before a holder takes back what it planned, it makes the plan void. That fails once somebody else holds the key, who may
have carried the plan out: then nothing is taken back. Whoever finds a void plan takes it back first, then begins anew.

Every call gives the same result when repeated with the same token.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

# How long a key is remembered.
KEPT_S = 86_400.0


class Found(StrEnum):
    """What a reservation finds."""

    NEW = "new"  # it is ours: go on
    DONE = "done"  # answer what was answered
    PLANNED = (
        "planned"  # its holder is gone; it is ours: carry the plan out, or begin anew where there is none
    )
    VOID = "void"  # as planned, but its holder was taking it back: do that, then begin anew
    BUSY = "busy"  # another request with this key is under way
    OTHER = "other"  # the key came with another request before


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was found, and the answer as far as it is known."""

    found: Found
    answer: bytes | None = None


class Idempotency(Protocol):
    """Which requests came before. `caller` is an API key's id, `key` what its holder sent."""

    async def reserve(
        self, caller: str, key: str, fingerprint: str, token: str, lease_s: float
    ) -> Reservation:
        """Takes the key unless it is taken. `fingerprint` tells one request from another; a holder whose lease has
        passed is gone: no request lives longer than its lease.
        """

    async def plan(self, caller: str, key: str, token: str, answer: bytes) -> None:
        """What will be answered; from now on whoever takes over carries this out."""

    async def done(self, caller: str, key: str, token: str, answer: bytes) -> None:
        """The answer stands."""

    async def void(self, caller: str, key: str, token: str, lease_s: float) -> bool:
        """The plan is being taken back: nobody may carry it out any more. False, and nothing has changed, if it is not
        this holder's any more. The lease begins again; another plan may follow.
        """

    async def pass_on(self, caller: str, key: str, token: str) -> None:
        """The plan could not be carried out now: the next request may try at once."""

    async def release(self, caller: str, key: str, token: str) -> None:
        """Nothing came of it: the key is free again."""
