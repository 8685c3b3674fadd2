"""One lane of a sender: takes deliveries, claims as many messages as there are free slots, and starts their sends."""

import asyncio

import numpy as np
from numpy.typing import NDArray

from common.broker.port import Broker, Delivery, Subscription
from common.errors import BadBody
from common.ledger.port import Claims
from common.ledger.values import Standing
from common.messages import Lane, Outcome, is_increasing
from common.rate.port import RateLimit
from common.tracking.port import Tracker
from sender.copies import Copies
from sender.prefetch import Prefetch
from sender.providers.bulk import BulkProvider, Sends
from sender.settle import Settler
from sender.slots import Slots
from sender.timing import LIMITS, TIMING, Limits, Timing
from sender.tracking import begun_steps
from sender.unacked import Group, Piece, Unacked, UnackedBatch


class LaneWorker:
    """Keeps the slots that its lane may have busy, with few more messages in hand than fill them.

    Attributes:
        lane: The lane.
        unacked: The deliveries that are not acked yet.
        stopping: Whether it takes no more messages.
    """

    def __init__(
        self,
        lane: Lane,
        *,
        slots: Slots,
        broker: Broker,
        ledger: Claims,
        provider: BulkProvider,
        settler: Settler,
        copies: Copies,
        limit: RateLimit | None = None,
        tracker: Tracker | None = None,
        timing: Timing = TIMING,
        limits: Limits = LIMITS,
    ) -> None:
        self.lane = lane
        self.unacked = Unacked(
            lane,
            slots,
            keep_messages=provider.reads_messages,
            keep_tracked=tracker is not None,
            limits=limits,
        )
        self._slots = slots
        self._broker = broker
        self._ledger = ledger
        self._provider = provider
        self._settler = settler
        self._copies = copies
        self._limit = limit
        self._tracker = tracker
        self._timing = timing
        self._limits = limits
        self._not_begun: dict[UnackedBatch, list[int]] = {}
        self.stopping = False
        self._subscription: Subscription | None = None

    @property
    def in_flight(self) -> int:
        """Slots in use."""
        return self._slots.in_use(self.lane)

    async def run(self) -> None:
        """Works until cancelled."""
        self._subscription = await self._broker.subscribe(self.lane, self._limits.first_prefetch)
        prefetch = Prefetch(
            self._subscription,
            self.unacked,
            self._slots,
            limit=self._limit,
            timing=self._timing,
            limits=self._limits,
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive(self._subscription, prefetch))
            tasks.create_task(self._begin(prefetch))
            tasks.create_task(self._review(prefetch))

    async def stop(self) -> None:
        """Takes no more messages, hands back those that were not begun, and returns once no send is in flight."""
        self.stopping = True
        if self._subscription is not None:
            await self._subscription.close()
        for batch, rest in self.unacked.take_all():
            if len(rest) < batch.seqs.size:
                self._not_begun.setdefault(batch, []).extend(rest)
            else:
                self.unacked.release(batch)
        await self._slots.unused(self.lane)
        # Messages of these batches may be on their way to another attempt: were the batches handed back whole, such
        # messages would come twice.
        for batch, seqs in self._not_begun.items():
            if len(seqs) < batch.seqs.size and not batch.delivery.stale:
                self._copies.publish_again(batch, seqs)

    async def _receive(self, subscription: Subscription, prefetch: Prefetch) -> None:
        while True:
            taken = await subscription.take()
            now_s = asyncio.get_running_loop().time()
            sizes: list[int] = []
            poison: dict[Delivery, str] = {}
            for delivery in taken:
                try:
                    sizes.append(self.unacked.add(delivery, now_s).seqs.size)
                except BadBody as error:
                    poison[delivery] = str(error)
            if poison:
                # Not awaited: under a memory alarm RabbitMQ holds publishes up, and good batches must go on.
                self._copies.reject(poison, self.unacked)
            prefetch.received(sizes, rejected=len(poison))

    async def _begin(self, prefetch: Prefetch) -> None:
        """Claims and starts messages whenever there are free slots and messages that wait for them."""
        clock, wake = asyncio.get_running_loop().time, self._slots.changed[self.lane]
        while True:
            wake.clear()
            prefetch.follow()
            while self._may_begin:
                await self._begin_some()
                prefetch.follow()
            if self._slots.free(self.lane) and not self.stopping:
                self._settler.hurry()
            began_s = clock()
            await wake.wait()
            await asyncio.sleep(max(0.0, began_s + self._gathering_s - clock()))

    @property
    def _may_begin(self) -> bool:
        free, waiting = self._slots.free(self.lane), self._slots.waiting(self.lane)
        return bool(free and waiting and not self.stopping)

    @property
    def _gathering_s(self) -> float:
        """How long free slots and new messages are gathered after a claim for the next one."""
        share_s = self._timing.gathering_share * self._settler.mean_time_s
        return min(self._timing.longest_gathering_s, share_s)

    async def _begin_some(self) -> None:
        """Begins as many sends as slots are free and the rate limit grants."""
        if self._limit is None:
            await self._claim_and_start(self._slots.free(self.lane))
            return
        wanted = min(self._slots.free(self.lane), self._slots.waiting(self.lane))
        grant = await self._limit.take(self.lane, wanted)
        # Meanwhile the other lane may have taken some of the slots. A grant that is not needed lapses.
        await self._claim_and_start(min(grant.granted, self._slots.free(self.lane)))
        if grant.wait_s:
            await asyncio.sleep(grant.wait_s)

    async def _claim_and_start(self, room: int) -> None:
        groups = self.unacked.pick(room)
        if len(groups) == 1:
            ((group, pieces),) = groups.items()
            await self._start(group, pieces)
        elif groups:
            await asyncio.gather(*(self._start(group, pieces) for group, pieces in groups.items()))

    async def _start(self, group: Group, pieces: list[Piece]) -> None:
        sends = self._sends(group, pieces)
        if len(pieces) > 1 and not is_increasing(sends.seqs) and np.unique(sends.seqs).size < sends.seqs.size:
            # Two copies of a message came together: the second claim of it must see the first.
            for piece in pieces:
                await self._start(group, [piece])
            return
        claim = await self._ledger.claim(group.run, sends.seqs, group.again)
        sends.age_s = claim.age_s
        sends = self._drop_unwanted(sends, claim.standing)
        if self.stopping:
            await self._give_back(sends)
            return
        sends = self._fail_bad_numbers(sends)
        if sends.seqs.size:
            self._hand_over(sends)

    def _sends(self, group: Group, pieces: list[Piece]) -> Sends:
        sizes = [beyond - first for _, first, beyond in pieces]
        return Sends(
            run=group.run,
            attempt=group.attempt,
            seqs=np.concatenate([batch.seqs[first:beyond] for batch, first, beyond in pieces]),
            owners=np.repeat(np.arange(len(pieces), dtype=np.int32), sizes),
            batches=[piece.batch for piece in pieces],
            on_finish=self._finished,
            track=group.track,
        )

    def _drop_unwanted(self, sends: Sends, standing: NDArray[np.uint8]) -> Sends:
        """Drops messages that are settled already or in flight elsewhere; returns the others."""
        wanted = standing <= Standing.AMBIGUOUS
        if bool(wanted.all()):
            return sends
        unwanted = sends.owners[~wanted]
        self._slots.release(self.lane, unwanted.size)
        for owner, count in zip(*np.unique(unwanted, return_counts=True), strict=True):
            sends.batches[int(owner)].count_off(int(count))
        return sends.part(np.flatnonzero(wanted))

    async def _give_back(self, sends: Sends) -> None:
        """The sender stopped while it claimed: the sends do not begin."""
        await self._ledger.release(sends.run, sends.seqs)
        for owner, seq in zip(sends.owners.tolist(), sends.seqs.tolist(), strict=True):
            self._not_begun.setdefault(sends.batches[owner], []).append(seq)
        self._slots.release(self.lane, sends.seqs.size)

    def _fail_bad_numbers(self, sends: Sends) -> Sends:
        """Messages whose number is not E.164 fail without a send; returns the others."""
        bad = [seq for batch in sends.batches if batch.bad for seq in batch.bad]
        if not bad:
            return sends
        is_bad = np.isin(sends.seqs, bad)
        failed = sends.part(np.flatnonzero(is_bad))
        failed.outcomes[:] = Outcome.FAILED
        failed.finish(0, failed.seqs.size)
        return sends.part(np.flatnonzero(~is_bad))

    def _hand_over(self, sends: Sends) -> None:
        if self._provider.reads_messages:
            owners = sends.owners.tolist()
            sends.messages = [
                sends.batches[owner].messages[seq]
                for owner, seq in zip(owners, sends.seqs.tolist(), strict=True)
            ]
        if sends.track and self._tracker is not None:
            self._tracker.tell(begun_steps(sends))
        self._provider.start(sends)

    def _finished(self, sends: Sends, first: int, beyond: int) -> None:
        self._settler.add(sends, first, beyond)
        self._slots.release(self.lane, beyond - first)

    async def _review(self, prefetch: Prefetch) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._timing.review_s)
            self._copies.split(self.unacked, self._slots.most(self.lane), self._settler.mean_time_s)
            self._copies.pass_on(self.unacked, clock())
            prefetch.review()
