"""Idempotency keys in memory, for one process."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from gateway.idempotency.port import KEPT_S, Found, Reservation

MOST = 100_000


@dataclass(slots=True)
class _Entry:
    fingerprint: str
    token: str
    until_s: float
    answer: bytes | None = None
    done: bool = False
    void: bool = False


class MemoryIdempotency:
    """At most `most` keys, the oldest forgotten first."""

    def __init__(self, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    async def reserve(
        self, caller: str, key: str, fingerprint: str, token: str, lease_s: float
    ) -> Reservation:
        now = self._clock()
        entry = self._entries.get((caller, key))
        if entry is None or (entry.done and entry.until_s <= now):
            self._entries[caller, key] = _Entry(fingerprint, token, now + lease_s)
            self._entries.move_to_end((caller, key))
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)
            return Reservation(Found.NEW)
        if entry.fingerprint != fingerprint:
            return Reservation(Found.OTHER)
        if entry.done:
            return Reservation(Found.DONE, entry.answer)
        if entry.token == token:
            return Reservation(Found.NEW)
        if entry.until_s > now:
            return Reservation(Found.BUSY)
        entry.token, entry.until_s = token, now + lease_s
        is_void = entry.void and entry.answer is not None
        return Reservation(Found.VOID if is_void else Found.PLANNED, entry.answer)

    async def plan(self, caller: str, key: str, token: str, answer: bytes) -> None:
        if (entry := self._mine(caller, key, token)) is not None:
            entry.answer, entry.void = answer, False

    async def done(self, caller: str, key: str, token: str, answer: bytes) -> None:
        if (entry := self._mine(caller, key, token)) is not None:
            entry.answer, entry.done, entry.until_s = answer, True, self._clock() + KEPT_S

    async def void(self, caller: str, key: str, token: str, lease_s: float) -> bool:
        if (entry := self._mine(caller, key, token)) is None:
            return False
        entry.void, entry.until_s = True, self._clock() + lease_s
        return True

    async def pass_on(self, caller: str, key: str, token: str) -> None:
        if (entry := self._mine(caller, key, token)) is not None:
            entry.until_s = self._clock()

    async def release(self, caller: str, key: str, token: str) -> None:
        if self._mine(caller, key, token) is not None:
            del self._entries[caller, key]

    def _mine(self, caller: str, key: str, token: str) -> _Entry | None:
        entry = self._entries.get((caller, key))
        return entry if entry is not None and entry.token == token and not entry.done else None
