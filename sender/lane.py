"""One lane's way through a sender: take deliveries, claim as many messages as there are free slots, start them."""

import asyncio
import itertools
import logging
import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from common.broker.port import Broker, Delivery, Subscription
from common.errors import BadBody, PublishFailed, StaleDelivery
from common.ledger.port import Ledger, Standing
from common.messages import Lane, Message, Outcome, Seqs, is_increasing
from common.rate.port import RateLimit
from common.tracking.port import Tracker
from sender import steps
from sender.providers.port import Provider
from sender.recorder import Recorder
from sender.work import HeldBatch, Sends, hold

log = logging.getLogger(__name__)

# How often prefetch is brought into line with the batches seen and the slots that stood idle.
REVIEW_S = 0.25
# What can't be done within this time at the present rate is published again in smaller batches: RabbitMQ takes back
# what was not acked within its consumer timeout, 30 minutes by default.
LATEST_S = 600.0
# The largest batch seen lately is the largest of the last whole period, or of this one.
PERIOD_TURNS = 12
# How much a sender holds ahead of a rate limit, in seconds of it.
AHEAD_OF_LIMIT_S = 2.0
# What may be held, beyond the prefetch that keeps the slots busy, for nothing but the confirms of copies; and what a
# delivery takes beside its body, with its copy and all that waits for the confirm.
COPYING_BYTES = 128 * 1024 * 1024
DELIVERY_BYTES = 4096
# Runs whose beginning is remembered, and for how long: a name that was forgotten may begin anew.
RUNS_REMEMBERED = 1000
REMEMBERED_S = 10.0
# Deliveries at once, until the first good batch tells how large they are.
POISON_PREFETCH = 16
# What prefetch may grow to, as a multiple of what the slots alone would need: batches whose last messages take
# long hold their place while most of their slots are free again.
LARGEST_STRETCH = 4

# A claim of many messages costs little more than one of a few, so claims are this share of a send's time apart, which
# is about what it costs in throughput.
GATHERING_SHARE = 0.01
LONGEST_GATHERING_S = 0.02

Claimed = tuple[HeldBatch, int, int]
# What is claimed together: of one run and attempt, redelivered or not, tracked or not.
Group = tuple[str, int, bool, bool]


class LaneWorker:
    """Keeps a lane's slots busy, with no more in hand than fills them and about one batch."""

    def __init__(
        self,
        lane: Lane,
        slots: int,
        broker: Broker,
        ledger: Ledger,
        provider: Provider,
        recorder: Recorder,
        limit: RateLimit | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.lane = lane
        self.slots = slots
        self._broker = broker
        self._ledger = ledger
        self._provider = provider
        self._recorder = recorder
        self._limit = limit
        self._tracker = tracker
        self._began: dict[str, tuple[float, float]] = {}
        self._free = slots
        self._waiting: deque[HeldBatch] = deque()
        self._held: dict[HeldBatch, None] = {}
        self._unbegun: dict[HeldBatch, set[int]] = {}
        self._rejecting: set[Delivery] = set()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._stopping = False
        self._subscription: Subscription | None = None
        self._prefetch = 1
        self._largest_batch = 0
        self._largest_of_period = 0
        self._hungry = False

    @property
    def in_flight(self) -> int:
        """Slots in use."""
        return self.slots - self._free

    async def run(self) -> None:
        """Works until cancelled."""
        self._subscription = await self._broker.subscribe(self.lane, self._prefetch)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive(self._subscription, tasks))
            tasks.create_task(self._begin())
            tasks.create_task(self._review(self._subscription))

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
        while self._free < self.slots:
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

    def _settled(self, batch: HeldBatch) -> None:
        """A batch is wholly settled: ack it, unless it comes again anyhow."""
        self._held.pop(batch, None)
        if not batch.delivery.stale:
            batch.delivery.ack()

    async def _receive(self, subscription: Subscription, tasks: asyncio.TaskGroup) -> None:
        keep = self._provider.reads_messages, self._tracker is not None
        while True:
            poison: list[tuple[Delivery, str]] = []
            taken = await subscription.take()
            came_s = asyncio.get_running_loop().time()
            for delivery in taken:
                try:
                    batch = hold(delivery, self._settled, came_s, *keep)
                except BadBody as error:
                    poison.append((delivery, str(error)))
                    continue
                self._waiting.append(batch)
                self._held[batch] = None
                self._largest_of_period = max(self._largest_of_period, batch.seqs.size)
            if poison:
                # Not awaited here: under a memory alarm RabbitMQ holds publishes up, and good batches must go on.
                tasks.create_task(self._reject(poison))
            self._largest_batch = max(self._largest_batch, self._largest_of_period)
            if self._prefetch == 1:
                known = self._largest_batch > 0
                self._set_prefetch(subscription, self._base_prefetch() if known else POISON_PREFETCH)
            self._wake.set()

    async def _reject(self, poison: list[tuple[Delivery, str]]) -> None:
        """Counts bodies that are no batch, and moves them to the rejected queue."""
        self._rejecting.update(delivery for delivery, _ in poison)
        await self._ledger.reject(len(poison))
        await asyncio.gather(*(self._move_away(*one) for one in poison))

    async def _move_away(self, delivery: Delivery, reason: str) -> None:
        log.warning("body_rejected", extra={"reason": reason, "bytes": len(delivery.body)})
        while not delivery.stale:
            try:
                await self._broker.ready()
                await delivery.reject(reason)
                break
            except PublishFailed:
                await asyncio.sleep(REVIEW_S)
            except StaleDelivery:
                break
        self._rejecting.discard(delivery)

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            while self._free and self._waiting and not self._stopping:
                room, wait_s = await self._room()
                if room:
                    await self._claim_and_start(room)
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
        wanted = min(self._free, sum(batch.waiting for batch in self._waiting))
        grant = await self._limit.take(self.lane, wanted)
        return grant.granted, grant.wait_s

    async def _claim_and_start(self, room: int) -> None:
        groups = self._pick(room)
        picked = sum(j - i for group in groups.values() for _, i, j in group)
        self._free -= picked
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
        began_s = await self._beginning(run)
        batches = [batch for batch, _, _ in group]
        owners = np.repeat(np.arange(len(group), dtype=np.int32), [j - i for _, i, j in group])
        standing = await self._ledger.claim(run, seqs, redelivered)
        wanted = standing <= Standing.AMBIGUOUS
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
            age_s = asyncio.get_running_loop().time() - began_s
            messages = _messages(batches, seqs, owners) if self._provider.reads_messages else None
            sends = Sends(run, attempt, seqs, owners, batches, self._finished, age_s, messages, track)
            if track and self._tracker is not None:
                self._tracker.tell(steps.begun(sends))
            self._provider.start(sends)

    async def _beginning(self, run: str) -> float:
        """When a run began: by the ledger's clock, which is asked now and then, told by our own, which never jumps."""
        now_s = asyncio.get_running_loop().time()
        began_s, asked_s = self._began.get(run, (0.0, -math.inf))
        if now_s - asked_s > REMEMBERED_S:
            age_s = await self._ledger.age_s(run)
            now_s = asyncio.get_running_loop().time()
            began_s = now_s - age_s
            self._began.pop(run, None)
            if len(self._began) >= RUNS_REMEMBERED:
                del self._began[next(iter(self._began))]
            self._began[run] = (began_s, now_s)
        return began_s

    def _drop(self, owners: NDArray[np.int32], batches: list[HeldBatch]) -> None:
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
        self._free += slots
        self._wake.set()
        if self._free == self.slots:
            self._idle.set()

    async def _review(self, subscription: Subscription) -> None:
        for turn in itertools.count(1):
            self._hungry = False
            await asyncio.sleep(REVIEW_S)
            if turn % PERIOD_TURNS == 0 and self._largest_of_period:
                self._largest_batch, self._largest_of_period = self._largest_of_period, 0
            for batch in [b for b in self._held if b.delivery.stale]:
                del self._held[batch]
            if self._largest_batch == 0:
                continue
            self._split_what_takes_too_long()
            self._pass_on_what_waits_too_long()
            waiting = sum(batch.waiting for batch in self._waiting)
            base = self._base_prefetch() + self._only_copying()
            wanted = max(self._prefetch, base)
            if self._hungry and waiting == 0 and len(self._held) >= self._prefetch:
                idle_batches = math.ceil(self._free / self._largest_batch)
                wanted = min(self._prefetch + max(1, idle_batches), LARGEST_STRETCH * base + 1)
            elif waiting > 2 * self._largest_batch + self.slots // 4:
                wanted = base
            if wanted != self._prefetch:
                self._set_prefetch(subscription, wanted)

    def _split_what_takes_too_long(self) -> None:
        mean_s = self._recorder.mean_time_s
        if not mean_s:
            return
        in_time = int(LATEST_S * self.slots / mean_s)
        piece, ahead = max(1, in_time // 10), 0
        for batch in list(self._waiting):
            ahead += batch.waiting
            if ahead > in_time and batch.waiting > piece:
                rest = batch.seqs[batch.begun :].tolist()
                batch.begun = batch.seqs.size
                self._waiting.remove(batch)
                for i in range(0, len(rest), piece):
                    self._recorder.publish_again(batch, set(rest[i : i + piece]), batch.attempt)

    def _pass_on_what_waits_too_long(self) -> None:
        """What a rate limit has held back for so long goes to the end of the queue, for whoever is next."""
        now_s = asyncio.get_running_loop().time()
        for batch in [b for b in self._waiting if now_s - b.came_s > LATEST_S and not b.delivery.stale]:
            rest = set(batch.seqs[batch.begun :].tolist())
            batch.begun = batch.seqs.size
            self._waiting.remove(batch)
            self._recorder.publish_again(batch, rest, batch.attempt)

    def _base_prefetch(self) -> int:
        ahead = self.slots
        if self._limit is not None:
            ahead = min(self.slots, int(AHEAD_OF_LIMIT_S * self._limit.rate))
        return ahead // self._largest_batch + 1

    def _only_copying(self) -> int:
        """Deliveries that only wait for the confirms of copies or rejects: under a memory alarm, which holds publishes
        up, they must not keep the lane from draining. As many as fit into COPYING_BYTES.
        """
        waiting = [*self._rejecting, *(batch.delivery for batch in self._held if batch.only_copying)]
        sizes = (len(delivery.body) + DELIVERY_BYTES for delivery in waiting)
        return sum(1 for total in itertools.accumulate(sizes) if total <= COPYING_BYTES)

    def _set_prefetch(self, subscription: Subscription, prefetch: int) -> None:
        self._prefetch = prefetch
        subscription.set_prefetch(prefetch)


def urgent_slots(slots: int) -> int:
    """How many slots are reserved for urgent messages, on top, so that SENDER_CONCURRENCY bulk sends do fit
    (docs/adr/0002-urgent-slots-on-top.md).
    """
    return max(1, slots // 10)


def _messages(batches: list[HeldBatch], seqs: Seqs, owners: NDArray[np.int32]) -> list[Message]:
    """The messages of some seqs, each from the batch that it came in."""
    return [batches[o].messages[seq] for o, seq in zip(owners.tolist(), seqs.tolist(), strict=True)]
