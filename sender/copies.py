"""Publishes messages again: for another attempt, for the failed queue, in smaller batches, or to the rejected queue.

Messages that are to be tried again share copies: those of one run, attempt, lane and delay that are settled within
`Timing.merge_s` are published together, independent of the batches that they came in. A message is counted off its
batch once its copy is confirmed.
"""

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.broker.confirm import publish_in_parts, publish_until_confirmed
from common.broker.port import Broker, Delivery
from common.broker.topology import RETRY_RUNGS_S
from common.errors import Refused, StaleDelivery
from common.ledger.port import Claims
from common.messages import MAX_BATCH_SPAN, Batch, Lane, Message, fitting
from sender.ended import Pick, Retry, picks_of
from sender.providers.bulk import Sends
from sender.timing import LIMITS, TIMING, Limits, Timing
from sender.unacked import Group, Unacked, UnackedBatch

log = logging.getLogger(__name__)

# Invalid numbers are truncated to this many characters in a copy and in events.
LONGEST_BAD_NUMBER = 24
LONGEST_BACKOFF_S = RETRY_RUNGS_S[-1]
_RUNGS_S = np.array(RETRY_RUNGS_S)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a temporary failure of a send is handled.

    Attributes:
        max_attempts: How often a message is tried; a temporary failure of the last attempt is final.
        backoff_s: The longest wait after the first attempt; it doubles with each further one.
        keep_failed: Whether messages that failed are kept in the failed queue.
    """

    max_attempts: int = 1
    backoff_s: float = 1.0
    keep_failed: bool = False

    def longest_backoff_s(self, attempt: int) -> float:
        """The longest wait after an attempt, in seconds."""
        return min(LONGEST_BACKOFF_S, self.backoff_s * 2.0 ** min(attempt - 1, 30))


class Kind(NamedTuple):
    """The properties by which messages share a copy.

    Attributes:
        group: The group in which they were claimed.
        attempt: The attempt that the copy is for.
        lane: The lane they came through.
        rung: The index in RETRY_RUNGS_S of the delay of the copy, -1 for none.
    """

    group: Group
    attempt: int
    lane: Lane
    rung: int = -1


@dataclass(slots=True)
class Copy:
    """Messages that are published again together.

    Attributes:
        kind: The properties that they share.
        picks: The messages.
        after_s: The delay, in seconds.
    """

    kind: Kind
    picks: list[Pick] = field(default_factory=list)
    after_s: float = 0.0

    def parts(self, most: int) -> Iterator["Copy"]:
        """The copy in parts that are valid batches of `most` messages or fewer."""
        part: list[Pick] = []
        for pick in sorted(self.picks, key=lambda pick: pick.seq):
            if part and (len(part) == most or not _fits(pick, part)):
                yield Copy(self.kind, part, self.after_s)
                part = []
            part.append(pick)
        if part:
            yield Copy(self.kind, part, self.after_s)

    def batches(self) -> Iterator[tuple[Batch, list[Pick]]]:
        """The batches to publish, each with its messages: more than one where they do not fit a body."""
        if not self.picks:
            return
        group, attempt, picks = self.kind.group, self.kind.attempt, self.picks
        copy = Batch(
            run=group.run,
            attempt=attempt,
            track=group.track,
            again=True if group.again and attempt == 1 else msgspec.UNSET,
            simulated=True if group.simulated else msgspec.UNSET,
            messages=[_message(pick) for pick in picks],
        )
        for part in fitting(copy):
            yield part, picks[: len(part.messages)]
            picks = picks[len(part.messages) :]


class Copies:
    """Publishes copies until they are confirmed.

    `on_refused` is called where the broker refuses one. Its messages come again, since their batch is not acked.
    """

    def __init__(
        self,
        broker: Broker,
        ledger: Claims,
        policy: RetryPolicy,
        *,
        on_refused: Callable[[Refused], None],
        timing: Timing = TIMING,
        limits: Limits = LIMITS,
    ) -> None:
        self._broker = broker
        self._on_refused = on_refused
        self._ledger = ledger
        self._policy = policy
        self._timing = timing
        self._limits = limits
        self._retries: dict[Kind, Copy] = {}
        self._some = asyncio.Event()
        self._tasks: asyncio.TaskGroup
        self._publishing: set[asyncio.Task[None]] = set()

    @property
    def unconfirmed(self) -> bool:
        """Whether some copies are not confirmed, those that are still gathered included."""
        return bool(self._retries or self._publishing)

    async def run(self) -> None:
        """Publishes the copies of retries, until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            while True:
                await self._some.wait()
                await asyncio.sleep(self._timing.merge_s)
                self._publish_retries()

    async def drain(self) -> None:
        """Publishes the gathered retries, and returns once every copy is confirmed."""
        self._publish_retries()
        while self._publishing:
            await asyncio.gather(*self._publishing)

    def retry(self, retries: list[Retry]) -> None:
        """Publishes copies of messages that are settled for a retry, soon."""
        waits_s = self._waits_s(retries)
        rungs = np.searchsorted(_RUNGS_S, waits_s)
        for retry, wait_s, rung in zip(retries, waits_s.tolist(), rungs.tolist(), strict=True):
            self._gather(retry.pick, wait_s, rung)
        self._some.set()

    def keep(self, failed: list[Sends], then: Callable[[list[Sends]], None]) -> None:
        """Puts copies of failed messages into the failed queue, then calls `then` with them."""
        # A copy for each batch: `smsim replay --limit` takes whole copies.
        copies: dict[UnackedBatch, Copy] = {}
        for sends in failed:
            for pick in picks_of(sends, range(sends.seqs.size)):
                copy = copies.setdefault(pick.batch, Copy(_same_attempt(pick.batch)))
                copy.picks.append(pick)
        self._begin(self._keep_all(list(copies.values()), lambda: then(failed)))

    def publish_again(self, batch: UnackedBatch, seqs: Iterable[int]) -> None:
        """Publishes some messages of a batch as a batch of their own, for the same attempt."""
        copy = Copy(_same_attempt(batch), [Pick(seq, batch) for seq in seqs])
        self._begin(self._publish(copy))

    def split(self, unacked: Unacked, slots: int, mean_send_s: float) -> None:
        """Publishes messages again in smaller batches that this number of slots could not send in time."""
        if not mean_send_s:
            return
        in_time = int(self._timing.overdue_s * slots / mean_send_s)
        size = max(1, in_time // 10)
        ahead = 0
        for batch in unacked.waiting:
            ahead += batch.waiting
            if ahead > in_time and batch.waiting > size:
                self._split_one(batch, size)

    def _split_one(self, batch: UnackedBatch, size: int) -> None:
        rest = batch.unacked.take_rest(batch)
        for first in range(0, len(rest), size):
            self.publish_again(batch, rest[first : first + size])

    def pass_on(self, unacked: Unacked, now_s: float) -> None:
        """Publishes messages at the end of the queue that have waited too long for a rate limit."""
        for batch in unacked.waiting:
            if now_s - batch.came_s > self._timing.overdue_s and not batch.delivery.stale:
                self.publish_again(batch, unacked.take_rest(batch))

    def reject(self, poison: dict[Delivery, str], unacked: Unacked) -> None:
        """Counts invalid bodies and moves them to the rejected queue, each with its reason."""
        self._tasks.create_task(self._unless_refused(self._reject_all(poison, unacked)))

    def _waits_s(self, retries: list[Retry]) -> NDArray[np.float64]:
        """How long each message waits: exponential backoff with full jitter, or longer if its provider asked for it.

        A wait that was asked for is lengthened by up to as much: the messages must not all return at once.
        """
        count = len(retries)
        longest_s = np.array([self._policy.longest_backoff_s(retry.pick.batch.attempt) for retry in retries])
        asked_s = np.array([retry.asked_s for retry in retries])
        waits_s = np.maximum(longest_s * _random(count), asked_s * (1 + _random(count)))
        return np.minimum(waits_s, LONGEST_BACKOFF_S)

    def _gather(self, pick: Pick, wait_s: float, rung: int) -> None:
        batch = pick.batch
        kind = Kind(batch.group, batch.attempt + 1, batch.delivery.lane, rung)
        copy = self._retries.setdefault(kind, Copy(kind))
        copy.picks.append(pick)
        copy.after_s = max(copy.after_s, wait_s)

    def _publish_retries(self) -> None:
        self._some.clear()
        retries, self._retries = self._retries, {}
        for copy in retries.values():
            for part in copy.parts(self._limits.copy_messages):
                self._begin(self._publish(part))

    def _begin(self, publishing: Coroutine[None, None, None]) -> None:
        task = self._tasks.create_task(self._unless_refused(publishing))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _unless_refused(self, publishing: Coroutine[None, None, None]) -> None:
        try:
            await publishing
        except Refused as refused:
            self._on_refused(refused)

    async def _publish(self, copy: Copy) -> None:
        """Publishes a copy until it is confirmed, and counts its messages off their batches."""
        await publish_until_confirmed(self._broker, partial(self._publish_once, copy))

    async def _publish_once(self, copy: Copy) -> None:
        # The messages of stale deliveries come again anyway.
        copy.picks = [pick for pick in copy.picks if not pick.batch.delivery.stale]
        for batch, picks in copy.batches():
            await self._in_parts(lambda part: self._broker.publish(part, copy.kind.lane, copy.after_s), batch)
            copy.picks = copy.picks[len(picks) :]
            for unacked, messages in Counter(pick.batch for pick in picks).items():
                unacked.count_off(messages)

    async def _keep_all(self, copies: list[Copy], then: Callable[[], None]) -> None:
        parts = [part for copy in copies for part in copy.parts(self._limits.copy_messages)]
        publishes = [
            partial(self._in_parts, partial(self._broker.park, lane=part.kind.lane), batch)
            for part in parts
            for batch, _ in part.batches()
        ]
        await publish_until_confirmed(self._broker, *publishes)
        then()

    async def _in_parts(self, publish: Callable[[Batch], Awaitable[None]], batch: Batch) -> None:
        """Publishes a batch, in smaller ones where RabbitMQ refuses its size. Raises PublishFailed, Refused."""
        if refused := await publish_in_parts(publish, batch):
            raise Refused(f"RabbitMQ's size limit has no room for message {batch.run}.{refused[0].seq}")

    async def _reject(self, delivery: Delivery, reason: str, unacked: Unacked) -> None:
        log.warning("body_rejected", extra={"reason": reason, "bytes": len(delivery.body)})
        await publish_until_confirmed(self._broker, partial(self._reject_once, delivery, reason))
        unacked.forget(delivery)

    async def _reject_once(self, delivery: Delivery, reason: str) -> None:
        with contextlib.suppress(StaleDelivery):
            if not delivery.stale:
                await delivery.reject(reason)

    async def _reject_all(self, poison: dict[Delivery, str], unacked: Unacked) -> None:
        await self._ledger.reject(len(poison))
        await asyncio.gather(
            *(self._reject(delivery, reason, unacked) for delivery, reason in poison.items())
        )


def _same_attempt(batch: UnackedBatch) -> Kind:
    return Kind(batch.group, batch.attempt, batch.delivery.lane)


def _fits(pick: Pick, part: list[Pick]) -> bool:
    """Whether a batch of messages in the order of their seqs may have this one, too."""
    return pick.seq != part[-1].seq and pick.seq - part[0].seq < MAX_BATCH_SPAN


def _random(count: int) -> NDArray[np.float64]:
    """Random numbers from 0 to 1."""
    return np.array([random.random() for _ in range(count)])


def _message(pick: Pick) -> Message:
    message = pick.batch.unacked.messages_of(pick.batch)[pick.seq]
    return truncated(message) if pick.seq in pick.batch.bad else message


def truncated(message: Message) -> Message:
    """The message, with at most LONGEST_BAD_NUMBER characters of its number."""
    if len(message.to) <= LONGEST_BAD_NUMBER:
        return message
    return msgspec.structs.replace(message, to=message.to[:LONGEST_BAD_NUMBER])
