"""A store of callbacks. One contract suite, tests/contract/test_callbacks.py, tests each implementation.

- The acceptance of a message registers its callback in the same durable write (gateway/acceptance). The callback stays
  in the store until it is removed or its `Retention` ends.
- A callback is leased to one gateway at a time, by the store's clock. The lease of a dead gateway expires.
- Every call can be repeated. A callback that was leased by a call whose answer was lost stays leased.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec
from yarl import URL

from common.tracking.port import Status
from gateway.callbacks.limits import Retention


class FinalStatus(msgspec.Struct, frozen=True):
    """How a message ended.

    Attributes:
        attempts: How often senders tried to send it.
        at_us: When it ended, as Unix time in microseconds; None if unknown.
    """

    status: Status
    attempts: int
    at_us: int | None


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """A leased callback.

    Attributes:
        age_s: Time since registration.
        failures: Delivery attempts that failed.
        final: How the message ended; None before the first attempt.
        lease: The lease's token.
    """

    run: str
    seq: int
    number: str
    url: str
    age_s: float = 0.0
    failures: int = 0
    final: FinalStatus | None = None
    lease: str = ""

    @property
    def uuid(self) -> str:
        """The message id."""
        return f"{self.run}.{self.seq}"

    @property
    def host(self) -> str:
        """The URL's host."""
        return URL(self.url).raw_host or ""  # `host` decodes xn--… and raises for invalid names


class Reschedule(msgspec.Struct, frozen=True):
    """A change of a callback's schedule.

    Attributes:
        callback: The leased callback, with the `failures` and `final` to store.
        delay_s: When it is due, from now.
    """

    callback: Callback
    delay_s: float


class Callbacks(Protocol):
    """The registered callbacks."""

    @property
    def retention(self) -> Retention:
        """How long callbacks are kept."""

    async def due(self, limit: int) -> list[str]:
        """The message ids of callbacks that are due, the longest overdue first."""

    async def lease(self, uuids: Sequence[str], lease_s: float) -> list[Callback]:
        """Leases callbacks; skips those that are unknown or leased to others."""

    async def reschedule(self, changes: Sequence[Reschedule]) -> None:
        """Stores changes and ends the leases; skips callbacks whose lease has passed to another gateway."""

    async def remove(self, uuids: Sequence[str]) -> None:
        """Removes callbacks that were delivered or given up."""
