"""Records what came of sends: settle in groups, then ack.

For a retry: settle, publish the copy, then ack. For a failure that is kept: publish the copy, settle, then ack, so
that whatever is settled as failed is in the failed queue. A crash between any two of these steps ends right: what is
not settled is delivered again and found by its claim; what is settled and not acked is delivered again and skipped.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine
from functools import partial

import numpy as np
from numpy.typing import NDArray

from common.broker.port import Broker
from common.errors import PublishFailed
from common.ledger.port import Ledger
from common.ledger.values import Outcomes
from common.messages import Outcome, is_increasing
from common.tracking.port import Tracker
from sender import steps
from sender.counts import SendCounts
from sender.providers.bulk import Sends
from sender.unacked import UnackedBatch

# A crash leaves no more than this much unrecorded.
LONGEST_GAP_S = 0.1
SHORTEST_GAP_S = 0.005
# Messages that are settled without waiting for the gap to pass.
FULL = 16_384
LONGEST_BACKOFF_S = 512.0
# Plain numbers: NumPy compares an array with an enum's member many times more slowly.
RETRY = np.uint8(Outcome.RETRY)
FAILED = np.uint8(Outcome.FAILED)

Part = tuple[Sends, int, int]


class Recorder:
    """Gathers ended sends and settles them together."""

    def __init__(
        self,
        ledger: Ledger,
        broker: Broker,
        sender: str,
        max_attempts: int = 1,
        backoff_s: float = 1.0,
        keep_failed: bool = False,
        tracker: Tracker | None = None,
    ) -> None:
        self._ledger = ledger
        self._broker = broker
        self._sender = sender
        self._max_attempts = max_attempts
        self._backoff_s = backoff_s
        self._keep_failed = keep_failed
        self._tracker = tracker
        self._parts: list[Part] = []
        self._pending = 0
        self._some = asyncio.Event()
        self._hurry = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._gap_s = SHORTEST_GAP_S
        self._tasks: asyncio.TaskGroup
        self._copies: set[asyncio.Task[None]] = set()
        self.counts = SendCounts()
        self.mean_time_s: float | None = None

    def add(self, sends: Sends, first: int, beyond: int) -> None:
        """Sends that have ended."""
        if first == beyond:
            return
        self._parts.append((sends, first, beyond))
        self._pending += beyond - first
        self._some.set()
        if self._pending >= FULL:
            self._hurry.set()

    def hurry(self) -> None:
        """Slots stand idle, and acks are what brings more to send: don't wait for the whole gap."""
        if self._pending:
            self._hurry.set()

    async def run(self) -> None:
        """Settles what is added, for as long as it runs."""
        async with asyncio.TaskGroup() as self._tasks:
            while True:
                await self._some.wait()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LONGEST_GAP_S):
                        await self._hurry.wait()
                        if self._pending < FULL:
                            await asyncio.sleep(self._gap_s)
                began = time.monotonic()
                await self.flush()
                # Half of the time at most goes into flushes that are hurried: slots and acks wait for them.
                self._gap_s = min(LONGEST_GAP_S, max(SHORTEST_GAP_S, time.monotonic() - began))

    async def flush(self) -> None:
        """Settles all that has ended, then acks or publishes again. Waits for a flush that is under way."""
        async with self._flushing:
            parts, self._parts, self._pending = self._parts, [], 0
            self._some.clear()
            self._hurry.clear()
            if self._keep_failed:
                parts = self._keep(parts)
            by_run: dict[str, list[Part]] = {}
            for part in parts:
                by_run.setdefault(part[0].run, []).append(part)
            await asyncio.gather(*(self._settle(run, of_run) for run, of_run in by_run.items()))

    async def drain(self) -> None:
        """Settles what is left and waits for the copies that are being published."""
        await self.flush()
        while self._copies:
            await asyncio.gather(*self._copies)
            await self.flush()

    def publish_again(self, batch: UnackedBatch, seqs: set[int], attempt: int, after_s: float = 0) -> None:
        """Publishes a copy of some of a batch's messages, and counts them off the batch once it is confirmed."""
        self._copy(self._publish_again(batch, seqs, attempt, after_s))

    def _keep(self, parts: list[Part]) -> list[Part]:
        """Begins to keep what failed for good and is not kept yet; gives the rest, which can be settled now."""
        rest, failed = [], []
        for sends, first, beyond in parts:
            lost = self._outcomes([(sends, first, beyond)]) == FAILED
            if sends.kept or not bool(lost.any()):
                rest.append((sends, first, beyond))
                continue
            failed.append(sends.part(np.flatnonzero(lost) + first))
            if not bool(lost.all()):
                others = sends.part(np.flatnonzero(~lost) + first)
                rest.append((others, 0, others.seqs.size))
        if failed:
            self._copy(self._keep_and_settle(failed))
        return rest

    async def _settle(self, run: str, parts: list[Part]) -> None:
        settled = np.concatenate([s.seqs[i:j] for s, i, j in parts])
        if len(parts) > 1 and not is_increasing(np.sort(settled)):
            # A message that was sent, came again and was sent again: the second settle of it must see the first.
            middle = len(parts) // 2
            await self._settle(run, parts[:middle])
            await self._settle(run, parts[middle:])
            return
        outcomes = Outcomes(
            settled,
            self._outcomes(parts),
            np.concatenate([s.times_us[i:j] for s, i, j in parts]),
            _ambiguous(parts),
        )
        total_time_us = int(outcomes.times_us.sum())
        self.mean_time_s = total_time_us / settled.size / 1e6
        await self._ledger.settle(run, outcomes, self._sender)
        if self._tracker is not None and any(sends.track for sends, _, _ in parts):
            self._tracker.tell(steps.ended(parts, outcomes.outcomes))
        self.counts.add(outcomes.outcomes, outcomes.times_us, total_time_us)
        self._count_off(parts)
        if bool((outcomes.outcomes == RETRY).any()):
            self._retry(parts)

    def _outcomes(self, parts: list[Part]) -> NDArray[np.uint8]:
        """The outcomes, with a retry after the last attempt made a failure."""
        outcomes = np.concatenate([sends.outcomes[i:j] for sends, i, j in parts])
        last = [sends.attempt >= self._max_attempts for sends, _, _ in parts]
        if any(last):
            over = outcomes == RETRY
            if not all(last):
                over &= np.repeat(last, [j - i for _, i, j in parts])
            outcomes[over] = FAILED
        return outcomes

    def _count_off(self, parts: list[Part]) -> None:
        """Takes the settled messages off their batches; those to be retried stay until their copy is confirmed."""
        owners_of: dict[Sends, list[NDArray[np.int32]]] = {}
        for sends, first, beyond in parts:
            owners = sends.owners[first:beyond]
            if sends.attempt < self._max_attempts:
                owners = owners[sends.outcomes[first:beyond] != RETRY]
            owners_of.setdefault(sends, []).append(owners)
        for sends, pieces in owners_of.items():
            if len(sends.batches) == 1:
                sends.batches[0].count_off(sum(owners.size for owners in pieces))
                continue
            counts = np.bincount(np.concatenate(pieces), minlength=len(sends.batches))
            touched = np.flatnonzero(counts)
            for owner, count in zip(touched.tolist(), counts[touched].tolist(), strict=True):
                sends.batches[owner].count_off(count)

    def _retry(self, parts: list[Part]) -> None:
        """Publishes copies of what is to be tried again, none sooner than its provider asked for."""
        waits: dict[float, list[Sends]] = {}
        for sends, first, beyond in parts:
            if sends.attempt >= self._max_attempts:
                continue
            again = np.flatnonzero(sends.outcomes[first:beyond] == RETRY) + first
            if sends.retry_after_s is None:
                waits.setdefault(0.0, []).append(sends.part(again))
                continue
            # By the second: each wait makes copies of its own, and an HTTP date gives each message another one.
            asked_s = np.ceil(sends.retry_after_s[again])
            for wait_s in np.unique(asked_s).tolist():
                waits.setdefault(wait_s, []).append(sends.part(again[asked_s == wait_s]))
        for wait_s, retries in waits.items():
            for batch, seqs in _by_batch(retries):
                after_s = max(self._backoff_of(batch.attempt), _spread(wait_s))
                self.publish_again(batch, seqs, batch.attempt + 1, after_s)

    def _backoff_of(self, attempt: int) -> float:
        """How long to wait after an attempt: exponential, with full jitter."""
        return random.uniform(0, longest_backoff_s(attempt, self._backoff_s))

    def _copy(self, job: Coroutine[None, None, None]) -> None:
        task = self._tasks.create_task(job)
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    async def _publish_again(self, batch: UnackedBatch, seqs: set[int], attempt: int, after_s: float) -> None:
        lane = batch.delivery.lane
        batch.copying += len(seqs)
        for copy in batch.copies_of(seqs, attempt):
            # Once the delivery is stale its messages come again anyhow.
            publish = partial(self._broker.publish, copy, lane, after_s)
            if await self._confirmed(publish, lambda: batch.delivery.stale):
                batch.copying -= len(copy.messages)
                batch.count_off(len(copy.messages))

    async def _keep_and_settle(self, failed: list[Sends]) -> None:
        """Puts copies of what failed for good into the failed queue; only then is it settled."""
        await asyncio.gather(*(self._keep_some(batch, seqs) for batch, seqs in _by_batch(failed)))
        for sends in failed:
            sends.kept = True
            self.add(sends, 0, sends.seqs.size)

    async def _keep_some(self, batch: UnackedBatch, seqs: set[int]) -> None:
        batch.copying += len(seqs)
        for copy in batch.copies_of(seqs, batch.attempt):
            await self._confirmed(partial(self._broker.keep, copy, batch.delivery.lane))
        batch.copying -= len(seqs)

    async def _confirmed(
        self,
        publish: "Callable[[], asyncio.Future[None]]",
        pointless: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Publishes until it is confirmed, which gives True, or pointless."""
        while not pointless():
            try:
                await self._broker.ready()
                await publish()
            except PublishFailed:
                await asyncio.sleep(SHORTEST_GAP_S)
            else:
                return True
        return False


def longest_backoff_s(attempt: int, base_s: float) -> float:
    """The longest wait after an attempt, in seconds: it doubles with each."""
    return min(LONGEST_BACKOFF_S, base_s * 2.0 ** min(attempt - 1, 30))


def _spread(wait_s: float) -> float:
    """A wait that a provider asked for, lengthened by up to as much: all it refused must not return at once."""
    return min(LONGEST_BACKOFF_S, wait_s * random.uniform(1, 2))


def _by_batch(parts: list[Sends]) -> list[tuple[UnackedBatch, set[int]]]:
    """The seqs of some sends, by the batch that they came in."""
    found: dict[UnackedBatch, set[int]] = {}
    for sends in parts:
        for owner, seq in zip(sends.owners.tolist(), sends.seqs.tolist(), strict=True):
            found.setdefault(sends.batches[owner], set()).add(seq)
    return list(found.items())


def _ambiguous(parts: list[Part]) -> NDArray[np.bool_] | None:
    if all(sends.ambiguous is None for sends, _, _ in parts):
        return None
    return np.concatenate(
        [np.zeros(j - i, np.bool_) if s.ambiguous is None else s.ambiguous[i:j] for s, i, j in parts]
    )
