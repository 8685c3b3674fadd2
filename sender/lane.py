"""One lane of a sender: takes deliveries, and begins as many sends as there are free slots."""

import asyncio
from collections.abc import Callable

from common.broker.port import Broker, Delivery, Subscription
from common.errors import BadBody, Refused
from common.rate.port import RateLimit
from sender.copies import Copies
from sender.prefetch import Prefetch
from sender.settle import Settler
from sender.slots import Slots
from sender.start import Starter
from sender.timing import LIMITS, TIMING, Limits, Timing
from sender.unacked import Unacked


class LaneWorker:
    """Keeps the slots of its lane busy, and holds few more messages than fill them.

    `on_refused` is called where the broker delivers no more: it does not let this client in again.

    Attributes:
        lane: The lane.
        unacked: The deliveries that are not acked yet.
    """

    def __init__(
        self,
        unacked: Unacked,
        *,
        slots: Slots,
        broker: Broker,
        starter: Starter,
        settler: Settler,
        copies: Copies,
        on_refused: Callable[[Refused], None],
        limit: RateLimit | None = None,
        timing: Timing = TIMING,
        limits: Limits = LIMITS,
    ) -> None:
        self.lane = unacked.lane
        self.unacked = unacked
        self._slots = slots
        self._broker = broker
        self._starter = starter
        self._settler = settler
        self._copies = copies
        self._on_refused = on_refused
        self._limit = limit
        self._timing = timing
        self._limits = limits
        self._subscription: Subscription | None = None

    @property
    def in_flight(self) -> int:
        """Slots in use."""
        return self._slots.in_use(self.lane)

    @property
    def stopping(self) -> bool:
        """Whether it begins no more sends."""
        return self._starter.stopping

    async def run(self) -> None:
        """Works until cancelled."""
        subscription = await self._broker.subscribe(self.lane, self._limits.first_prefetch)
        self._subscription = subscription
        prefetch = Prefetch(
            subscription,
            self.unacked,
            self._slots,
            limit=self._limit,
            timing=self._timing,
            limits=self._limits,
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive(subscription, prefetch))
            tasks.create_task(self._begin(prefetch))
            tasks.create_task(self._review(prefetch))

    async def stop(self) -> None:
        """Begins no more sends, hands back the waiting messages, and returns once no send is in flight."""
        self._starter.stopping = True
        if self._subscription is not None:
            await self._subscription.close()
        self._hand_back()
        await self._slots.unused(self.lane)
        # Messages of these batches may be on their way to another attempt: were the batches handed back whole, such
        # messages would come twice.
        for batch, seqs in self._starter.not_begun.items():
            if len(seqs) < batch.seqs.size and not batch.delivery.stale:
                self._copies.publish_again(batch, seqs)

    def _hand_back(self) -> None:
        for batch, rest in self.unacked.take_all():
            if len(rest) < batch.seqs.size:
                self._starter.not_begun.setdefault(batch, []).extend(rest)
            else:
                self.unacked.release(batch)

    async def _receive(self, subscription: Subscription, prefetch: Prefetch) -> None:
        while True:
            sizes: list[int] = []
            poison: dict[Delivery, str] = {}
            try:
                taken = await subscription.take()
            except Refused as refused:
                self._on_refused(refused)
                return
            now_s = asyncio.get_running_loop().time()
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
        """Begins sends whenever there are free slots and messages that wait for them."""
        wake = self._slots.changed[self.lane]
        while True:
            wake.clear()
            prefetch.follow()
            while self._may_begin:
                await self._begin_some()
                prefetch.follow()
            if self._slots.free(self.lane) and not self.stopping:
                self._settler.hurry()
            await self._wait_and_gather(wake)

    @property
    def _may_begin(self) -> bool:
        waiting = self._slots.waiting(self.lane)
        return bool(waiting and self._slots.free(self.lane) and not self.stopping)

    async def _wait_and_gather(self, wake: asyncio.Event) -> None:
        """Waits for free slots or messages, and then a share of a send's time for more of them: claims are costly."""
        clock = asyncio.get_running_loop().time
        share_s = self._timing.gathering_share * self._settler.mean_time_s
        ends_s = clock() + min(self._timing.longest_gathering_s, share_s)
        await wake.wait()
        await asyncio.sleep(max(0.0, ends_s - clock()))

    async def _begin_some(self) -> None:
        """Begins as many sends as slots are free and the rate limit grants."""
        if self._limit is None:
            await self._begin_up_to(self._slots.free(self.lane))
            return
        free, waiting = self._slots.free(self.lane), self._slots.waiting(self.lane)
        grant = await self._limit.take(self.lane, min(free, waiting))
        # Meanwhile the other lane may have taken some of the slots. A grant that is not needed lapses.
        await self._begin_up_to(min(grant.granted, self._slots.free(self.lane)))
        if grant.wait_s:
            await asyncio.sleep(grant.wait_s)

    async def _begin_up_to(self, room: int) -> None:
        groups = self.unacked.pick(room)
        starts = [self._starter.start(group, pieces) for group, pieces in groups.items()]
        if len(starts) == 1:
            await starts[0]
        elif starts:
            await asyncio.gather(*starts)

    async def _review(self, prefetch: Prefetch) -> None:
        clock, slots = asyncio.get_running_loop().time, self._slots.most(self.lane)
        while True:
            await asyncio.sleep(self._timing.review_s)
            self._copies.split(self.unacked, slots, self._settler.mean_time_s)
            self._copies.pass_on(self.unacked, clock())
            prefetch.review()
