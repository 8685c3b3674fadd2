"""Publishes a run: announces its messages in blocks, publishes them in batches, and notes what is confirmed."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import msgspec

from common.broker.confirm import publish_until_confirmed
from common.broker.port import Broker
from common.errors import PublishFailed, Refused, TooLarge
from common.ledger import port as ledger_port
from common.ledger.heartbeat import producer_heartbeat
from common.ledger.port import Publications
from common.messages import Batch, Lane, encode_batch, fitting
from common.publishing.pace import Pace
from common.publishing.recipes import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The timing of a publication, in seconds.

    Attributes:
        announce_ahead_s: With a pace, messages are announced at most this long before they are due: what is announced
            counts as queued.
        confirm_every_s: Interval at which the ledger gets to know what is confirmed.
        failure_pause_s: Pause before failed publishes are repeated.
        heartbeat_s: Interval of the producer's heartbeats.
    """

    announce_ahead_s: float = 1.0
    confirm_every_s: float = 0.25
    failure_pause_s: float = 0.2
    heartbeat_s: float = ledger_port.TIMING.producer_silence_s / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The sizes that a publication keeps within.

    Attributes:
        announced_block: Messages that one call announces ahead of the publishes.
        window_messages: Most messages that are published and not confirmed.
        window_batches: Most batches that are published and not confirmed.
        turn_messages: Messages after which other tasks get a turn of the event loop.
    """

    announced_block: int = 20_000
    window_messages: int = 32_768
    window_batches: int = 1_024
    turn_messages: int = 512


TIMING = Timing()
LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to publish.

    Attributes:
        batch_size: Messages a batch. Long texts make smaller batches, where a body would be too large.
        first: The seq to begin with: all before it are confirmed.
        track: Whether the steps of each message are tracked (common/tracking).
        simulated: Whether only the simulated provider may send the messages.
        rate_per_s: At what rate it is to be published; as fast as possible unless given.
    """

    run: str
    source: Stream
    batch_size: int
    lane: Lane
    first: int = 0
    track: bool = False
    simulated: bool = False
    rate_per_s: float | None = None

    def batches(self) -> Iterator[Batch]:
        """The messages in batches that fit a body."""
        messages = self.source.messages(self.first)
        simulated = True if self.simulated else msgspec.UNSET
        while block := list(islice(messages, self.batch_size)):
            yield from fitting(Batch(run=self.run, track=self.track, simulated=simulated, messages=block))


class RunPublisher:
    """Publishes one job, once.

    A publish that fails is repeated until it is confirmed: the ledger counts each message once. With a `pace`, a batch
    is published when its last message is due, else as soon as possible. `on_progress` gets the seq below which all
    messages are confirmed.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Publications,
        job: Job,
        *,
        pace: Pace | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
        timing: Timing = TIMING,
        limits: Limits = LIMITS,
    ) -> None:
        self._ledger = ledger
        self._job = job
        self._pace = pace
        self._on_progress = on_progress
        self._timing = timing
        self._limits = limits
        self._window = _Window(broker, job.lane, timing.failure_pause_s)
        self._most_batches = max(1, min(limits.window_batches, limits.window_messages // job.batch_size))
        self._block = limits.announced_block
        if pace is not None:
            self._block = min(self._block, math.ceil(timing.announce_ahead_s * pace.rate_per_s))
        # All seqs below these are announced, confirmed, and known to the ledger as confirmed.
        self._announced = self._confirmed = self._noted = job.first
        self._noted_s = 0.0

    async def publish(self) -> None:
        """Returns when all messages are confirmed. Raises LedgerLost, Refused."""
        self._noted_s = asyncio.get_running_loop().time()
        async with producer_heartbeat(self._ledger, self._job.run, self._timing.heartbeat_s):
            try:
                await self._publish()
            finally:
                self._window.cancel()
            if self._confirmed > self._noted or self._job.source.count == self._job.first:
                await self._note()

    async def _publish(self) -> None:
        if self._pace is not None:
            self._pace.start(self._job.first)
        in_turn = 0
        for batch in self._job.batches():
            beyond = batch.messages[-1].seq + 1
            if beyond > self._announced:
                await self._announce(beyond)
            await self._due(beyond)
            self._window.publish(batch, beyond)
            while len(self._window) >= self._most_batches:
                await self._confirm_oldest()
            in_turn += len(batch.messages)
            if in_turn >= self._limits.turn_messages:
                in_turn = 0
                await asyncio.sleep(0)
            if self._note_is_due():
                await self._note()
        while self._window:
            await self._confirm_oldest()

    async def _announce(self, beyond: int) -> None:
        """Announces a block that reaches to `beyond` or further."""
        block = max(self._block, beyond - self._announced)
        upto = min(self._announced + block, self._job.source.count)
        if self._pace is not None:
            # No batch is late for it: a block reaches no further ahead of its first batch than `announce_ahead_s`.
            while (early_s := self._pace.early_s(upto - 1) - self._timing.announce_ahead_s) > 0:
                await self._wait(early_s)
        await self._ledger.announce(self._job.run, self._announced, upto - self._announced)
        self._announced = upto

    async def _due(self, beyond: int) -> None:
        """Returns when the last message before `beyond` is due."""
        if self._pace is not None:
            while pause_s := self._pace.pause_s(beyond - 1):
                await self._wait(pause_s)

    async def _wait(self, pause_s: float) -> None:
        """Sleeps, for `confirm_every_s` at most, and notes what was confirmed meanwhile."""
        await asyncio.sleep(min(pause_s, self._timing.confirm_every_s))
        while self._window.oldest_is_done():
            await self._confirm_oldest()
        if self._confirmed > self._noted and self._note_is_due():
            await self._note()

    async def _confirm_oldest(self) -> None:
        self._confirmed = await self._window.confirm_oldest()
        self._on_progress(self._confirmed)

    def _note_is_due(self) -> bool:
        return asyncio.get_running_loop().time() - self._noted_s > self._timing.confirm_every_s

    async def _note(self) -> None:
        """Confirms in the ledger what the broker has confirmed."""
        self._noted_s, self._noted = asyncio.get_running_loop().time(), self._confirmed
        await self._ledger.confirm(self._job.run, self._confirmed)


@dataclass(slots=True)
class _Unconfirmed:
    """A batch without a confirm yet. `beyond` is the seq after its last message."""

    batch: Batch
    beyond: int
    confirm: "asyncio.Future[None]"

    @property
    def failed(self) -> bool:
        """Whether the publish failed."""
        return self.confirm.done() and self.confirm.exception() is not None


class _Window:
    """The batches that are published and not confirmed, in their order."""

    def __init__(self, broker: Broker, lane: Lane, failure_pause_s: float) -> None:
        self._broker = broker
        self._lane = lane
        self._failure_pause_s = failure_pause_s
        self._batches: deque[_Unconfirmed] = deque()

    def __len__(self) -> int:
        return len(self._batches)

    def publish(self, batch: Batch, beyond: int) -> None:
        """Publishes a batch, without waiting for the confirm."""
        self._batches.append(_Unconfirmed(batch, beyond, self._broker.publish(batch, self._lane)))

    def oldest_is_done(self) -> bool:
        """Whether `confirm_oldest` would return at once."""
        return bool(self._batches) and self._batches[0].confirm.done()

    async def confirm_oldest(self) -> int:
        """Removes the oldest batch once it is confirmed; answers the seq after its last message."""
        oldest = self._batches[0]
        try:
            await self._confirmed(oldest)
        except TooLarge as error:
            raise Refused(f"{error}: {_remedy(oldest.batch, error.most_bytes)}") from None
        self._batches.popleft()
        return oldest.beyond

    async def _confirmed(self, oldest: _Unconfirmed) -> None:
        try:
            await oldest.confirm
        except PublishFailed:
            again = [partial(self._publish_again, one) for one in self._batches if one.failed]
            await publish_until_confirmed(self._broker, *again, pause_s=self._failure_pause_s)

    def cancel(self) -> None:
        """Waits for no confirm any more."""
        for unconfirmed in self._batches:
            unconfirmed.confirm.cancel()
        self._batches.clear()

    async def _publish_again(self, unconfirmed: _Unconfirmed) -> None:
        unconfirmed.confirm = self._broker.publish(unconfirmed.batch, self._lane)
        await unconfirmed.confirm


def _remedy(batch: Batch, most_bytes: int) -> str:
    fit = max(1, len(batch.messages) * most_bytes // len(encode_batch(batch)))
    return f"continue with --resume {batch.run} --batch-size B, where about {fit:,} messages fit"
