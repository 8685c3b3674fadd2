"""Callbacks in memory, for a gateway in one process and for tests; the Lua scripts do the same in Redis."""

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from secrets import token_hex

from msgspec.structs import replace

from common.tracking.port import Record
from gateway.callbacks.limits import Retention
from gateway.callbacks.port import Callback, Reschedule


@dataclass(slots=True)
class _Entry:
    """A registered callback.

    Attributes:
        callback: The callback. Its `age_s` is set by each lease.
        registered_s: When it was registered.
        due_s: When it is due.
        lease_until_s: When its lease ends.
    """

    callback: Callback
    registered_s: float
    due_s: float = 0.0
    lease_until_s: float = 0.0


class MemoryCallbacks:
    """Callbacks in a dict. `clock` returns seconds."""

    def __init__(self, retention: Retention | None = None, clock: Callable[[], float] = time.time) -> None:
        self.retention = retention or Retention()
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        # A heap of times and ids. An item is stale if the entry's `due_s` has changed.
        self._schedule: list[tuple[float, str]] = []

    def register(self, records: Sequence[Record]) -> None:
        """Registers the callbacks of records that have a `callback_url`."""
        now = self._clock()
        for record in records:
            if record.callback_url is not None and record.uuid not in self._entries:
                callback = Callback(
                    run=record.run, seq=record.seq, number=record.number, url=record.callback_url
                )
                self._entries[record.uuid] = _Entry(callback, now)
                self._set_due(record.uuid, now + self.retention.first_check_s)

    async def due(self, limit: int) -> list[str]:
        now = self._clock()
        found: dict[tuple[float, str], None] = {}
        while self._schedule and self._schedule[0][0] <= now and len(found) < limit:
            item = heapq.heappop(self._schedule)
            if self._is_current(item):
                found[item] = None
        for item in found:
            heapq.heappush(self._schedule, item)
        return [uuid for _, uuid in found]

    async def lease(self, uuids: Sequence[str], lease_s: float) -> list[Callback]:
        now, token = self._clock(), token_hex(8)
        self._forget_expired(uuids, now)
        found = [self._entries[uuid] for uuid in uuids if uuid in self._entries]
        free = [entry for entry in found if entry.lease_until_s <= now]
        for entry in free:
            entry.callback = replace(entry.callback, lease=token, age_s=now - entry.registered_s)
            entry.lease_until_s = now + lease_s
            self._set_due(entry.callback.uuid, entry.lease_until_s)
        return [entry.callback for entry in free]

    async def reschedule(self, changes: Sequence[Reschedule]) -> None:
        for change in changes:
            callback = change.callback
            entry = self._entries.get(callback.uuid)
            if entry is not None and entry.callback.lease == callback.lease:
                entry.callback = replace(callback, lease="")
                entry.lease_until_s = 0.0
                self._set_due(callback.uuid, self._clock() + change.delay_s)

    async def remove(self, uuids: Sequence[str]) -> None:
        for uuid in uuids:
            self._entries.pop(uuid, None)

    def _is_current(self, item: tuple[float, str]) -> bool:
        due_s, uuid = item
        entry = self._entries.get(uuid)
        return entry is not None and entry.due_s == due_s

    def _set_due(self, uuid: str, due_s: float) -> None:
        self._entries[uuid].due_s = due_s
        heapq.heappush(self._schedule, (due_s, uuid))

    def _forget_expired(self, uuids: Sequence[str], now: float) -> None:
        for uuid in uuids:
            entry = self._entries.get(uuid)
            if entry is not None and now - entry.registered_s > self.retention.total_s:
                del self._entries[uuid]
