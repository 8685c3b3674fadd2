"""Callbacks in memory, for a gateway in one process and for tests; the Lua scripts do the same in Redis."""

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from secrets import token_hex

import msgspec

from common.tracking.port import Record
from gateway.callbacks.port import FIRST_LOOK_S, RETRY_ROOM_S, Ending, Owed


@dataclass(slots=True)
class _Kept:
    record: Record
    owed_at: float
    next_look: float = 0.0
    tries: int = 0
    ending: Ending | None = None
    lease: str = ""
    lease_until: float = 0.0


class MemoryCallbacks:
    """Callbacks in a dict. `ttl_s` is how long a message is waited for; `clock` gives seconds."""

    def __init__(self, ttl_s: float = 86_400, clock: Callable[[], float] = time.time) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        # By time of the next look; an entry is out of date where that has changed since.
        self._looks: list[tuple[float, str]] = []

    @property
    def ttl_s(self) -> float:
        return self._ttl_s

    async def owe(self, records: Sequence[Record]) -> None:
        self.owe_now(records)

    def owe_now(self, records: Sequence[Record]) -> None:
        """`owe`, in one step with the acceptance."""
        now = self._clock()
        for record in records:
            # The text is not kept: it is in no callback.
            if record.uuid not in self._kept:
                self._kept[record.uuid] = _Kept(_without_text(record), now)
                self._look_at(record.uuid, now + FIRST_LOOK_S)

    async def due(self, limit: int) -> list[str]:
        now = self._clock()
        found: dict[tuple[float, str], None] = {}
        while self._looks and self._looks[0][0] <= now and len(found) < limit:
            look = heapq.heappop(self._looks)
            kept = self._kept.get(look[1])
            if kept is not None and kept.next_look == look[0]:
                found[look] = None
        for look in found:
            heapq.heappush(self._looks, look)
        return [uuid for _, uuid in found]

    async def take(self, uuids: Sequence[str], lease_s: float) -> list[Owed]:
        now, token = self._clock(), token_hex(8)
        taken = []
        for uuid in uuids:
            kept = self._kept.get(uuid)
            if kept is None or kept.lease_until > now:
                continue
            if now - kept.owed_at > self._ttl_s + RETRY_ROOM_S:
                del self._kept[uuid]
                continue
            kept.lease, kept.lease_until = token, now + lease_s
            self._look_at(uuid, kept.lease_until)
            taken.append(_owed(kept, now))
        return taken

    async def put_off(self, later: Sequence[tuple[Owed, float]]) -> None:
        now = self._clock()
        for owed, delay_s in later:
            kept = self._kept.get(owed.uuid)
            if kept is not None and kept.lease == owed.lease:
                kept.tries, kept.ending = owed.tries, owed.ending
                kept.lease, kept.lease_until = "", 0.0
                self._look_at(owed.uuid, now + delay_s)

    async def drop(self, uuids: Sequence[str]) -> None:
        for uuid in uuids:
            self._kept.pop(uuid, None)

    def _look_at(self, uuid: str, at: float) -> None:
        self._kept[uuid].next_look = at
        heapq.heappush(self._looks, (at, uuid))


def _without_text(record: Record) -> Record:
    """The record without its text, which a callback does not need."""
    return msgspec.structs.replace(record, message=msgspec.structs.replace(record.message, text=""))


def _owed(kept: _Kept, now: float) -> Owed:
    record = kept.record
    assert record.callback_url is not None
    return Owed(
        run=record.run,
        seq=record.seq,
        number=record.number,
        url=record.callback_url,
        age_s=now - kept.owed_at,
        tries=kept.tries,
        ending=kept.ending,
        lease=kept.lease,
    )
