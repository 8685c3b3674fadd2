"""Whose each run is: the API key that its messages came with. Other keys see nothing of it."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from common.errors import SmsimError, UnknownRun
from common.ledger.port import Reports
from common.publishing.recipes import origin_in
from common.web.keys.port import Caller, Kind
from gateway.acceptance.port import Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerLimits:
    """The bounds of the cache of owners.

    Attributes:
        runs: Runs whose owner is known.
        kept_s: How long an owner is known: a forgotten run may be followed by another key's of the same name.
        reads_at_once: Runs that are read at the same time.
    """

    runs: int = 10_000
    kept_s: float = 60.0
    reads_at_once: int = 8


@dataclass(frozen=True, slots=True)
class _Known:
    """An owner that was read.

    Attributes:
        owner: The id of the API key; None: the run came with none.
        until_s: When it is read again.
    """

    owner: str | None
    until_s: float


def owner_of(caller: Caller) -> Owner:
    """Whose messages those of a caller are."""
    return Owner(caller.id, simulated=caller.kind is Kind.TEST)


class Owners:
    """Reads the owners of runs from the ledger, and remembers them. `clock` gives seconds."""

    def __init__(
        self,
        ledger: Reports,
        limits: OwnerLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._limits = limits or OwnerLimits()
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def check(self, caller: Caller, run: str) -> None:
        """Raises UnknownRun unless the caller may see the run: a run of others is as one that does not exist.

        Both are read from the ledger each time, so that the duration reveals nothing.
        """
        if caller.sees_all or self.has(caller.id, run) or await self._read(run) == caller.id:
            return
        raise UnknownRun(f"there is no run {run}")

    async def learn(self, runs: Iterable[str]) -> None:
        """Reads the owners that are not known, so that `has` knows them. Raises Unavailable."""
        unknown = [run for run in set(runs) if self._held(run) is None]
        for first in range(0, len(unknown), self._limits.reads_at_once):
            some = unknown[first : first + self._limits.reads_at_once]
            for error in await asyncio.gather(*map(self._read, some), return_exceptions=True):
                if isinstance(error, SmsimError) and not isinstance(error, UnknownRun):
                    raise error

    def has(self, owner: str, run: str) -> bool:
        """Whether a run is known to be this owner's."""
        known = self._held(run)
        return known is not None and known.owner == owner

    async def of(self, run: str) -> str | None:
        """The owner of a run; None: it came with no API key. Raises UnknownRun or Unavailable."""
        known = self._held(run)
        return await self._read(run) if known is None else known.owner

    def _held(self, run: str) -> _Known | None:
        known = self._known.get(run)
        return known if known is not None and known.until_s > self._clock() else None

    async def _read(self, run: str) -> str | None:
        owner = origin_in((await self._ledger.publication(run)).recipe).owner
        self._known.pop(run, None)
        self._known[run] = _Known(owner, self._clock() + self._limits.kept_s)
        if len(self._known) > self._limits.runs:
            self._known.popitem(last=False)
        return owner
