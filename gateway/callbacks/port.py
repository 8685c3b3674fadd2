"""What a store of callbacks promises. One contract suite, tests/contract/test_callbacks.py, holds both to it.

- What `owe` returned from is owed until it is dropped, whoever dies meanwhile, for at most `ttl_s` and RETRY_ROOM_S.
- A callback is leased to one taker at a time, by the store's clock; the lease of one that died passes.
- Every call gives the same when repeated, but that what was taken by a call whose answer was lost stays taken.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from common.tracking.port import Record, Status

# The first look at a message whose end nobody told of. Telling is what usually begins a delivery, long before.
FIRST_LOOK_S = 5.0
# How much longer than messages are kept a callback may be tried.
RETRY_ROOM_S = 4 * 3600.0


class Ending(msgspec.Struct, frozen=True):
    """How a message ended: its status, after how many attempts, and when (Unix time in us; None: nobody knows)."""

    status: Status
    attempts: int
    at_us: int | None


class Owed(msgspec.Struct, frozen=True, kw_only=True):
    """A callback in the hands of a taker.

    `age_s`: since it is owed. `tries`: deliveries that failed. `ending` is None until it was looked up. `lease` is the
    taker's token.
    """

    run: str
    seq: int
    number: str
    url: str
    age_s: float
    tries: int
    ending: Ending | None
    lease: str

    @property
    def uuid(self) -> str:
        """The message id."""
        return f"{self.run}.{self.seq}"


class Callbacks(Protocol):
    """The callbacks that are owed."""

    @property
    def ttl_s(self) -> float:
        """How long a message is waited for."""

    async def owe(self, records: Sequence[Record]) -> None:
        """Keeps the callbacks of records, each of which has a `callback_url`. What is owed already stays as it is."""

    async def due(self, limit: int) -> list[str]:
        """Message ids whose time for a look has come, the longest waiting first."""

    async def take(self, uuids: Sequence[str], lease_s: float) -> list[Owed]:
        """Leases callbacks; leaves out what others hold and what is not owed."""

    async def put_off(self, later: Sequence[tuple[Owed, float]]) -> None:
        """Gives back what was taken, with its `tries` and `ending`, until so many seconds from now.

        What is not held any more, since its lease has passed to another, stays as it is.
        """

    async def drop(self, uuids: Sequence[str]) -> None:
        """These are owed no longer: delivered, or given up."""
