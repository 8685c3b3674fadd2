"""Accepted messages in memory, for a gateway in one process and for tests; the Lua scripts do the same in Redis."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from common.ledger.memory import MemoryLedger
from common.messages import Lane, Message
from common.tracking.memory import MemoryTracker
from common.tracking.port import Record
from gateway.acceptance.memory_keys import MemoryKeys
from gateway.acceptance.port import (
    NOBODY,
    Bounds,
    Exceptional,
    Group,
    GroupAnswer,
    Item,
    Kept,
    Lease,
    LeaseLost,
    NewRun,
    Outbox,
    Owner,
    Verdict,
)
from gateway.acceptance.recipes import recipe_of_batch, recipe_of_singles


class RegistersCallbacks(Protocol):
    """A store of callbacks that registers them in one step with the acceptance."""

    def register(self, records: Sequence[Record]) -> None:
        """Registers the callbacks of records that have a `callback_url`."""


@dataclass(slots=True)
class _Run:
    """A run with its lease and its outbox.

    Attributes:
        outbox: What a holder gets, with the present fencing token.
        lease_until_s: When the lease ends; None once the run is relayed.
        messages: The messages in the outbox, oldest first.
        ends: Where each accepted group ends, and how many bytes it has.
        closed: Whether no more is accepted.
        call: The number of the last call of `accept`.
        call_fence: The fencing token that it came with.
        answer: Its answer.
    """

    lease: Lease
    lane: Lane
    track: bool
    simulated: bool
    lease_until_s: float | None
    relayed: int = 0
    accepted: int = 0
    messages: deque[Message] = field(default_factory=deque)
    ends: deque[tuple[int, int]] = field(default_factory=deque)
    closed: bool = False
    call: int = 0
    call_fence: int = 0
    answer: GroupAnswer | None = None

    def outbox(self) -> Outbox:
        """The outbox as its holder gets it."""
        return Outbox(
            lease=self.lease,
            lane=self.lane,
            track=self.track,
            simulated=self.simulated,
            relayed=self.relayed,
            accepted=self.accepted,
        )


class MemoryAcceptances:
    """Outboxes beside a ledger, a tracker and callbacks in memory. Nothing is awaited within a call.

    Of runs that are relayed, the last answers of the newest `most_relayed` are remembered.
    """

    def __init__(
        self,
        ledger: MemoryLedger,
        tracker: MemoryTracker,
        callbacks: RegistersCallbacks,
        *,
        queue: str = "sms_queue",
        holder: str = "gateway",
        bounds: Bounds | None = None,
        lease_s: float = 10.0,
        most_relayed: int = 1_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._tracker = tracker
        self._callbacks = callbacks
        self._queue = queue
        self._holder = holder
        self._bounds = bounds or Bounds()
        self._lease_s = lease_s
        self._most_relayed = most_relayed
        self._relayed: deque[str] = deque()
        self._clock = clock
        self._runs: dict[str, _Run] = {}
        self._keys = MemoryKeys(clock)
        self._messages = 0
        self._bytes = 0

    async def open(self, run: str, lane: Lane, owner: Owner = NOBODY) -> Outbox:
        recipe = recipe_of_singles(lane, self._queue, owner)
        return self._opened(run, recipe, lane, track=True, total=0, simulated=owner.simulated).outbox()

    async def accept(self, outbox: Outbox, group: Group) -> GroupAnswer:
        run = self._runs.get(outbox.lease.run)
        if run is None:
            raise LeaseLost(f"run {outbox.lease.run} is gone")
        fence = outbox.lease.fence
        if run.call_fence == fence and run.call == group.number and run.answer is not None:
            return run.answer
        is_open = not run.closed and self._ledger.takes_more(run.lease.run)
        if run.lease.fence != fence or run.call != group.number - 1 or not is_open:
            raise LeaseLost(f"run {run.lease.run} takes no more messages of this gateway")
        self._drain(run, group.relayed)
        run.call, run.call_fence, run.answer = group.number, fence, self._accept(run, group)
        self._renew(run)
        return run.answer

    async def accept_run(self, batch: NewRun) -> Outbox | Exceptional:
        if (run := self._runs.get(batch.run)) is not None:  # by an earlier try
            return run.outbox()
        if (bound := self._keys.bound(batch.key)) is not None:
            return bound
        count, size = len(batch.messages), sum(len(m.to) + len(m.text) for m in batch.messages)
        if count > self._bounds.messages or size > self._bounds.bytes:
            return Exceptional(Verdict.TOO_LARGE)
        if self._is_full(count, size):
            return Exceptional(Verdict.FULL)
        recipe = recipe_of_batch(count, batch.lane, self._queue, owner=batch.owner)
        simulated = batch.owner.simulated
        run = self._opened(batch.run, recipe, batch.lane, track=batch.track, total=count, simulated=simulated)
        run.closed = True
        self._keys.bind(batch.key, batch.run)
        if batch.track:
            self._keep([batch.record(message) for message in batch.messages])
        else:
            self._tracker.keep_texts(batch.run, batch.messages)
        self._fill(run, batch.messages, size)
        return run.outbox()

    async def confirm(self, lease: Lease, relayed: int, close: bool = False) -> int:
        run = self._held(lease)
        self._drain(run, relayed)
        if close:
            self._close(run)
        self._renew(run)
        if run.closed and run.relayed == run.accepted:
            self._end(run)
        return run.accepted

    async def release(self, lease: Lease) -> None:
        run = self._runs.get(lease.run)
        if run is not None and run.lease == lease and run.lease_until_s is not None:
            run.lease_until_s = float("-inf")

    async def take_over(self, silent_s: float) -> Outbox | None:
        before = self._clock() - silent_s
        ended = [
            (run.lease_until_s, name)
            for name, run in self._runs.items()
            if run.lease_until_s is not None and run.lease_until_s <= before
        ]
        if not ended:
            return None
        run = self._runs[min(ended)[1]]
        run.lease = Lease(run.lease.run, run.lease.fence + 1)
        self._close(run)
        self._renew(run)
        return run.outbox()

    async def read(self, outbox: Outbox, first: int, count: int) -> list[Message | None]:
        run = self._held(outbox.lease)
        at = first - run.relayed
        return [run.messages[k] if 0 <= k < len(run.messages) else None for k in range(at, at + count)]

    async def backlog(self) -> tuple[int, int]:
        return self._messages, self._bytes

    async def trim(self) -> Kept:
        return Kept()  # the tracker has a bound of its own

    def _opened(
        self, name: str, recipe: str, lane: Lane, *, track: bool, total: int, simulated: bool
    ) -> _Run:
        if name not in self._runs:
            self._ledger.begin_now(name, recipe, total, self._holder)
            self._runs[name] = _Run(
                lease=Lease(name, fence=1),
                lane=lane,
                track=track,
                simulated=simulated,
                lease_until_s=self._clock() + self._lease_s,
            )
        return self._runs[name]

    def _accept(self, run: _Run, group: Group) -> GroupAnswer:
        """Accepts the items of a group that are new, if there is room."""
        first, exceptions = run.accepted, dict[int, Exceptional]()
        records: list[Record] = []
        size = 0
        for at, item in enumerate(group.items):
            is_full = self._is_full(len(records) + 1, size + _size(item))
            refusal = self._keys.bound(item.key) or (Exceptional(Verdict.FULL) if is_full else None)
            if refusal is not None:
                exceptions[at] = refusal
                continue
            seq = first + len(records)
            self._keys.bind(item.key, f"{run.lease.run}.{seq}")
            records.append(item.record(run.lease.run, seq, accepted_us=group.accepted_us, lane=run.lane))
            size += _size(item)
        if records:
            self._keep(records)
            self._fill(run, [record.message for record in records], size)
        return GroupAnswer(first, exceptions)

    def _keep(self, records: list[Record]) -> None:
        """Keeps the records of tracked messages, and registers their callbacks."""
        self._tracker.keep_records(records)
        self._callbacks.register(records)

    def _is_full(self, messages: int, size: int) -> bool:
        return self._messages + messages > self._bounds.messages or self._bytes + size > self._bounds.bytes

    def _fill(self, run: _Run, messages: Sequence[Message], size: int) -> None:
        run.messages.extend(messages)
        run.accepted += len(messages)
        run.ends.append((run.accepted, size))
        self._messages += len(messages)
        self._bytes += size
        self._ledger.announce_now(run.lease.run, run.accepted - len(messages), len(messages))

    def _drain(self, run: _Run, upto: int) -> None:
        upto = min(upto, run.accepted)
        while run.relayed < upto:
            run.messages.popleft()
            run.relayed += 1
            self._messages -= 1
        while run.ends and run.ends[0][0] <= upto:
            self._bytes -= run.ends.popleft()[1]
        self._ledger.confirm_now(run.lease.run, run.relayed)

    def _close(self, run: _Run) -> None:
        run.closed = True
        self._ledger.close_now(run.lease.run)

    def _end(self, run: _Run) -> None:
        """The run is relayed; it needs no takeover."""
        run.lease_until_s = None
        self._relayed.append(run.lease.run)
        if len(self._relayed) > self._most_relayed:
            self._runs.pop(self._relayed.popleft(), None)

    def _renew(self, run: _Run) -> None:
        run.lease_until_s = self._clock() + self._lease_s

    def _held(self, lease: Lease) -> _Run:
        run = self._runs.get(lease.run)
        if run is None or run.lease != lease:
            raise LeaseLost(f"another gateway relays run {lease.run}")
        return run


def _size(item: Item) -> int:
    """About the size of its record."""
    return len(item.number) + len(item.text) + len(item.callback_url or "")
