"""Callbacks in memory, for a gateway in one process and for tests; the Lua scripts do the same in Redis."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from secrets import token_hex

from msgspec.structs import replace

from common.tracking.port import Record
from gateway.callbacks.limits import Retention
from gateway.callbacks.port import Callback, Reschedule


@dataclass(slots=True)
class _Entry:
    """A registered callback.

    Attributes:
        callback: Its `lease` is blank while it is not leased; its `age_s` is set by each lease.
        due_s: When it is due; while it is leased, when the lease ends.
    """

    callback: Callback
    registered_s: float
    due_s: float


class MemoryCallbacks:
    """Callbacks in a dict. `clock` returns seconds."""

    def __init__(self, retention: Retention | None = None, clock: Callable[[], float] = time.time) -> None:
        self.retention = retention or Retention()
        self._clock = clock
        self._entries: dict[str, _Entry] = {}

    def register(self, records: Sequence[Record]) -> None:
        """Registers the callbacks of records that have a `callback_url`."""
        now = self._clock()
        for record in records:
            if (url := record.callback_url) is not None:
                callback = Callback(run=record.run, seq=record.seq, number=record.number, url=url)
                entry = _Entry(callback, now, now + self.retention.first_check_s)
                self._entries.setdefault(record.uuid, entry)

    async def due(self, limit: int) -> list[str]:
        now = self._clock()
        due = [entry for entry in self._entries.values() if entry.due_s <= now]
        return [entry.callback.uuid for entry in nsmallest(limit, due, key=_due_s)]

    async def lease(self, uuids: Sequence[str], lease_s: float) -> list[Callback]:
        now, token = self._clock(), token_hex(8)
        self._forget_expired(uuids, now)
        found = [self._entries[uuid] for uuid in uuids if uuid in self._entries]
        free = [entry for entry in found if not entry.callback.lease or entry.due_s <= now]
        for entry in free:
            entry.callback = replace(entry.callback, lease=token, age_s=now - entry.registered_s)
            entry.due_s = now + lease_s
        return [entry.callback for entry in free]

    async def reschedule(self, changes: Sequence[Reschedule]) -> None:
        for change in changes:
            entry = self._entries.get(change.callback.uuid)
            if entry is not None and entry.callback.lease == change.callback.lease:
                entry.callback = replace(change.callback, lease="")
                entry.due_s = self._clock() + change.delay_s

    async def remove(self, uuids: Sequence[str]) -> None:
        for uuid in uuids:
            self._entries.pop(uuid, None)

    def _forget_expired(self, uuids: Sequence[str], now: float) -> None:
        for uuid in uuids:
            if uuid in self._entries and now - self._entries[uuid].registered_s > self.retention.total_s:
                del self._entries[uuid]


def _due_s(entry: _Entry) -> float:
    return entry.due_s
