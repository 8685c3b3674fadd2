"""One lane's way through a sender: take deliveries, claim as many messages as there are free slots, start them."""

import asyncio
from collections import deque

import numpy as np
from numpy.typing import NDArray

from common.broker.port import Broker, Delivery, Subscription
from common.errors import BadBody
from common.ledger.port import Ledger
from common.ledger.values import Standing
from common.messages import Lane, Message, Outcome, Seqs, is_increasing
from common.rate.port import RateLimit
from common.tracking.port import Tracker
from sender import overdue, steps
from sender.prefetch import FIRST_PREFETCH, Prefetch
from sender.providers.bulk import BulkProvider, Sends
from sender.recorder import Recorder
from sender.rejects import Rejects
from sender.slots import Slots
from sender.unacked import UnackedBatch, hold

# How often prefetch is brought into line with the batches seen and the slots that stood idle.
REVIEW_S = 0.25
# A claim of many messages costs little more than one of a few, so claims are this share of a send's time apart, which
# is about what it costs in throughput.
GATHERING_SHARE = 0.01
LONGEST_GATHERING_S = 0.02

Claimed = tuple[UnackedBatch, int, int]
# What is claimed together: of one run and attempt, redelivered or not, tracked or not.
Group = tuple[str, int, bool, bool]


class LaneWorker:
    """Keeps the slots that its lane may have busy, with no more in hand than fills them and about one batch."""

    def __init__(
        self,
        lane: Lane,
        slots: Slots,
        broker: Broker,
        ledger: Ledger,
        provider: BulkProvider,
        recorder: Recorder,
        limit: RateLimit | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.lane = lane
        self._slots = slots
        self._broker = broker
        self._ledger = ledger
        self._provider = provider
        self._recorder = recorder
        self._limit = limit
        self._tracker = tracker
        self._rejects = Rejects(broker, ledger)
        self._waiting: deque[UnackedBatch] = deque()
        self._held: dict[UnackedBatch, None] = {}
        self._unbegun: dict[UnackedBatch, set[int]] = {}
        self._wake = slots.changed[lane]
        self._idle = asyncio.Event()
        self._stopping = False
        self._subscription: Subscription | None = None
        self._hungry = False

    @property
    def in_flight(self) -> int:
        """Slots in use."""
        return self._slots.in_use(self.lane)

    @property
    def _free(self) -> int:
        return self._slots.free(self.lane)

    async def run(self) -> None:
        """Works until cancelled."""
        self._subscription = await self._broker.subscribe(self.lane, FIRST_PREFETCH)
        prefetch = Prefetch(self._subscription, self._slots, self.lane, self._limit)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive(self._subscription, prefetch, tasks))
            tasks.create_task(self._begin(prefetch))
            tasks.create_task(self._review(prefetch))

    async def stop(self) -> None:
        """Takes nothing more, hands back what was not begun, and returns when no send is in flight."""
        self._stopping = True
        if self._subscription is not None:
            await self._subscription.close()
        for batch in self._waiting:
            if batch.begun:
                self._unbegun.setdefault(batch, set()).update(batch.seqs[batch.begun :].tolist())
            elif not batch.delivery.stale:
                self._held.pop(batch, None)
                batch.delivery.release()
        self._waiting.clear()
        self._slots.left(self.lane, self._slots.waiting(self.lane))
        while self.in_flight:
            self._idle.clear()
            await self._idle.wait()
        # Some of a batch may be on its way to another attempt: were it handed back whole, these would come twice.
        for batch, seqs in self._unbegun.items():
            if len(seqs) < batch.seqs.size and not batch.delivery.stale:
                self._recorder.publish_again(batch, seqs, batch.attempt)

    def hand_back(self) -> None:
        """At the very end: what is not settled yet goes back to the queue; its settled messages will be skipped."""
        for batch in list(self._held):
            if not batch.delivery.stale:
                batch.delivery.release()
        self._held.clear()

    def _settled(self, batch: UnackedBatch) -> None:
        """A batch is wholly settled: ack it, unless it comes again anyhow."""
        self._held.pop(batch, None)
        if not batch.delivery.stale:
            batch.delivery.ack()

    async def _receive(
        self, subscription: Subscription, prefetch: Prefetch, tasks: asyncio.TaskGroup
    ) -> None:
        keep = self._provider.reads_messages, self._tracker is not None
        while True:
            poison: list[tuple[Delivery, str]] = []
            largest = 0
            taken = await subscription.take()
            came_s = asyncio.get_running_loop().time()
            for delivery in taken:
                try:
                    batch = hold(delivery, self._settled, came_s, *keep)
                except BadBody as error:
                    poison.append((delivery, str(error)))
                    continue
                self._waiting.append(batch)
                self._slots.came(self.lane, batch.waiting)
                self._held[batch] = None
                largest = max(largest, batch.seqs.size)
            if poison:
                # Not awaited here: under a memory alarm RabbitMQ holds publishes up, and good batches must go on.
                tasks.create_task(self._rejects.move(poison))
            prefetch.saw(largest)

    async def _begin(self, prefetch: Prefetch) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            while self._free and self._waiting and not self._stopping:
                room, wait_s = await self._room()
                if room:
                    await self._claim_and_start(room)
                    prefetch.follow()
                if wait_s:
                    await asyncio.sleep(wait_s)
            if self._free and not self._stopping:
                self._hungry = True
                self._recorder.hurry()
            began_s = loop.time()
            await self._wake.wait()
            await asyncio.sleep(max(0.0, began_s + self._gathering_s - loop.time()))

    @property
    def _gathering_s(self) -> float:
        """How long slots that come free, and messages that come in, are gathered after a claim for the next one."""
        return min(LONGEST_GATHERING_S, GATHERING_SHARE * (self._recorder.mean_time_s or 0.0))

    async def _room(self) -> tuple[int, float]:
        """How many sends may begin now: as many as slots are free, and as the rate limit grants; and how many seconds
        to wait before asking again. What is granted and then not needed, since it was settled already, lapses.
        """
        if self._limit is None:
            return self._free, 0
        grant = await self._limit.take(self.lane, min(self._free, self._slots.waiting(self.lane)))
        # While it was asked, the other lane may have taken some of the slots.
        return min(grant.granted, self._free), grant.wait_s

    async def _claim_and_start(self, room: int) -> None:
        groups = self._pick(room)
        # Before anything is awaited: the other lane claims too.
        self._slots.take(self.lane, sum(j - i for group in groups.values() for _, i, j in group))
        if not groups:
            return
        starts = [self._start(key, group) for key, group in groups.items()]
        await (starts[0] if len(starts) == 1 else asyncio.gather(*starts))

    def _pick(self, room: int) -> dict[Group, list[Claimed]]:
        """So many messages, first come first served, by group."""
        groups: dict[Group, list[Claimed]] = {}
        while room and self._waiting:
            batch = self._waiting[0]
            if batch.delivery.stale:
                self._held.pop(batch, None)
                self._waiting.popleft()
                self._slots.left(self.lane, batch.waiting)
                continue
            first, beyond = batch.begun, min(batch.seqs.size, batch.begun + room)
            batch.begun = beyond
            room -= beyond - first
            if batch.waiting == 0:
                self._waiting.popleft()
            key = (batch.run, batch.attempt, batch.again, batch.track)
            groups.setdefault(key, []).append((batch, first, beyond))
        return groups

    async def _start(self, key: Group, group: list[Claimed]) -> None:
        run, attempt, redelivered, track = key
        seqs = np.concatenate([batch.seqs[i:j] for batch, i, j in group])
        if len(group) > 1 and not is_increasing(seqs) and np.unique(seqs).size != seqs.size:
            # Two copies of a message came together: the second claim of it must see the first.
            for one in group:
                await self._start(key, [one])
            return
        batches = [batch for batch, _, _ in group]
        owners = np.repeat(np.arange(len(group), dtype=np.int32), [j - i for _, i, j in group])
        claim = await self._ledger.claim(run, seqs, redelivered)
        wanted = claim.standing <= Standing.AMBIGUOUS
        if not bool(wanted.all()):
            self._drop(owners[~wanted], batches)
            seqs, owners = seqs[wanted], owners[wanted]
        if self._stopping:
            await self._ledger.release(run, seqs)
            for owner, seq in zip(owners.tolist(), seqs.tolist(), strict=True):
                self._unbegun.setdefault(batches[owner], set()).add(seq)
            self._freed(seqs.size)
            return
        bad = {seq for batch in batches for seq in batch.bad}
        if bad:
            is_bad = np.isin(seqs, list(bad))
            self._fail(
                Sends(run, attempt, seqs[is_bad], owners[is_bad], batches, self._finished, track=track)
            )
            seqs, owners = seqs[~is_bad], owners[~is_bad]
        if seqs.size:
            messages = _messages(batches, seqs, owners) if self._provider.reads_messages else None
            sends = Sends(run, attempt, seqs, owners, batches, self._finished, claim.age_s, messages, track)
            if track and self._tracker is not None:
                self._tracker.tell(steps.begun(sends))
            self._provider.start(sends)

    def _drop(self, owners: NDArray[np.int32], batches: list[UnackedBatch]) -> None:
        """Messages that are settled already, or in hand elsewhere, need nothing from us."""
        self._freed(owners.size)
        for owner, count in zip(*np.unique(owners, return_counts=True), strict=True):
            batches[int(owner)].count_off(int(count))

    def _fail(self, sends: Sends) -> None:
        """Numbers that are no E.164 fail without a send."""
        sends.outcomes[:] = Outcome.FAILED
        if sends.seqs.size:
            sends.finish(0, sends.seqs.size)

    def _finished(self, sends: Sends, first: int, beyond: int) -> None:
        self._recorder.add(sends, first, beyond)
        self._freed(beyond - first)

    def _freed(self, slots: int) -> None:
        self._slots.give(self.lane, slots)
        if not self.in_flight:
            self._idle.set()

    async def _review(self, prefetch: Prefetch) -> None:
        while True:
            self._hungry = False
            await asyncio.sleep(REVIEW_S)
            for batch in [b for b in self._held if b.delivery.stale]:
                del self._held[batch]
            overdue.split(self._waiting, self._slots.most(self.lane), self._recorder)
            overdue.pass_on(self._waiting, asyncio.get_running_loop().time(), self._recorder)
            waiting = sum(batch.waiting for batch in self._waiting)
            self._slots.left(self.lane, self._slots.waiting(self.lane) - waiting)
            idle = self._free if self._hungry else None
            prefetch.review(len(self._held), waiting, idle, self._only_copying())

    def _only_copying(self) -> list[Delivery]:
        """Deliveries that only wait for the confirms of copies or rejects."""
        return [*self._rejects.in_hand, *(batch.delivery for batch in self._held if batch.only_copying)]


def _messages(batches: list[UnackedBatch], seqs: Seqs, owners: NDArray[np.int32]) -> list[Message]:
    """The messages of some seqs, each from the batch that it came in."""
    return [batches[o].messages[seq] for o, seq in zip(owners.tolist(), seqs.tolist(), strict=True)]
