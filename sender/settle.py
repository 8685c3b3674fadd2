"""Settles ended sends in groups, and acks the batches that are done with.

The order is: keep the copy of a failure, settle, publish the copy of a retry, ack. A crash between any two of these
steps ends right: a message that is not settled is delivered again and found by its claim; one that is settled and not
acked is delivered again and skipped.
"""

import asyncio
import contextlib

import numpy as np
from numpy.typing import NDArray

from common.ledger.port import Claims
from common.ledger.values import Outcomes
from common.messages import Outcome, is_increasing
from common.tracking.port import Tracker
from sender.copies import Copies, RetryPolicy
from sender.ended import FAILED, RETRY, Ended, by_batch, outcomes, results, retries
from sender.providers.bulk import Sends
from sender.timing import LIMITS, TIMING, Limits, Timing
from sender.tracking import settled_steps


class SendCounts:
    """Counts settled sends by outcome and by time. A message that is sent twice counts twice.

    Attributes:
        total_time_us: The sum of the times of the sends, in microseconds.
    """

    OCTAVES = 64
    OUTCOMES = len(Outcome) + 1

    def __init__(self) -> None:
        self._counts = np.zeros((self.OCTAVES, self.OUTCOMES), np.int64)
        self.total_time_us = 0

    def add(self, outcomes: NDArray[np.uint8], times_us: NDArray[np.int64]) -> None:
        """Counts more sends."""
        cells = np.log2(times_us + 1.0).astype(np.intp)
        cells *= self.OUTCOMES
        cells += outcomes
        counts = np.bincount(cells, minlength=self._counts.size)
        self._counts += counts.reshape(self._counts.shape)
        self.total_time_us += int(times_us.sum())

    def of(self, outcome: Outcome) -> int:
        """How many had this outcome."""
        return int(self._counts[:, outcome].sum())

    def octaves(self) -> dict[int, int]:
        """How many took 2**k to 2**(k + 1) microseconds, by k; empty octaves are left out."""
        counts = self._counts.sum(axis=1)
        filled = np.flatnonzero(counts)
        return dict(zip(filled.tolist(), counts[filled].tolist(), strict=True))


class Settler:
    """Gathers ended sends and settles them together.

    Attributes:
        counts: Counts the settled sends.
        mean_time_s: The mean time of the sends that were settled last, in seconds; 0 before the first ones.
    """

    def __init__(
        self,
        sender: str,
        ledger: Claims,
        copies: Copies,
        policy: RetryPolicy,
        *,
        tracker: Tracker | None = None,
        timing: Timing = TIMING,
        limits: Limits = LIMITS,
    ) -> None:
        self.counts = SendCounts()
        self.mean_time_s = 0.0
        self._sender = sender
        self._ledger = ledger
        self._copies = copies
        self._policy = policy
        self._tracker = tracker
        self._timing = timing
        self._limits = limits
        self._ended: list[Ended] = []
        self._pending = 0
        self._some = asyncio.Event()
        self._hurry = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._hurried_gap_s = timing.shortest_unsettled_s

    def add(self, sends: Sends, first: int, beyond: int) -> None:
        """Sends have ended, at these positions."""
        if first == beyond:
            return
        self._ended.append(Ended(sends, first, beyond))
        self._pending += beyond - first
        self._some.set()
        if self._pending >= self._limits.settle_messages:
            self._hurry.set()

    def hurry(self) -> None:
        """Slots stand idle, and acks bring more messages: settles sooner."""
        if self._pending:
            self._hurry.set()

    async def run(self) -> None:
        """Settles the added sends, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._some.wait()
            await self._gather()
            began_s = clock()
            await self.flush()
            self._hurried_gap_s = self._gap_s(clock() - began_s)

    async def flush(self) -> None:
        """Settles all that has ended, then acks or publishes copies. Waits for a flush that is under way."""
        async with self._flushing:
            ended = self._take()
            if self._policy.keep_failed:
                ended = self._keep(ended)
            by_run: dict[str, list[Ended]] = {}
            for part in ended:
                by_run.setdefault(part.sends.run, []).append(part)
            await asyncio.gather(*(self._settle(run, parts) for run, parts in by_run.items()))

    async def drain(self) -> None:
        """Settles what is left, and returns once every copy is confirmed."""
        await self.flush()
        while self._copies.unconfirmed:
            await self._copies.drain()
            await self.flush()  # of kept failures, whose copies are confirmed now

    async def _gather(self) -> None:
        """Waits for more sends to end: not for long while slots stand idle, and no longer once there are enough."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timing.longest_unsettled_s):
                await self._hurry.wait()
                if self._pending < self._limits.settle_messages:
                    await asyncio.sleep(self._hurried_gap_s)

    def _gap_s(self, flush_s: float) -> float:
        """The pause before a hurried flush: at most half of the time goes into flushes, for which slots wait."""
        longer = max(self._timing.shortest_unsettled_s, flush_s)
        return min(self._timing.longest_unsettled_s, longer)

    def _take(self) -> list[Ended]:
        ended, self._ended, self._pending = self._ended, [], 0
        self._some.clear()
        self._hurry.clear()
        return ended

    def _keep(self, ended: list[Ended]) -> list[Ended]:
        """Begins to keep the failures that are not kept yet; returns the rest, which can be settled now."""
        rest: list[Ended] = []
        failures: list[Sends] = []
        for part in ended:
            failed = outcomes([part], self._policy.max_attempts) == FAILED
            if part.sends.kept or not failed.any():
                rest.append(part)
                continue
            failures.append(part.part(np.flatnonzero(failed)).sends)
            rest.append(part.part(np.flatnonzero(~failed)))
        if failures:
            self._copies.keep(failures, then=self._add_kept)
        return [part for part in rest if part.size]

    def _add_kept(self, failures: list[Sends]) -> None:
        """Copies of failures are in the failed queue: now they are settled."""
        for sends in failures:
            sends.kept = True
            self.add(sends, 0, sends.seqs.size)

    async def _settle(self, run: str, ended: list[Ended]) -> None:
        found = results(ended, self._policy.max_attempts)
        if len(ended) > 1 and _some_repeated(found):
            # A message that was sent, came again and was sent again: its second settle must see the first.
            middle = len(ended) // 2
            await self._settle(run, ended[:middle])
            await self._settle(run, ended[middle:])
        else:
            await self._settle_together(run, ended, found)

    async def _settle_together(self, run: str, ended: list[Ended], found: Outcomes) -> None:
        self.mean_time_s = float(found.times_us.mean()) / 1e6
        await self._ledger.settle(run, found, self._sender)
        self.counts.add(found.outcomes, found.times_us)
        self._track(ended, found)
        self._count_off(ended, found)

    def _track(self, ended: list[Ended], found: Outcomes) -> None:
        if self._tracker is not None and any(part.sends.track for part in ended):
            self._tracker.publish(settled_steps(ended, found.outcomes))

    def _count_off(self, ended: list[Ended], found: Outcomes) -> None:
        """Counts settled messages off their batches; those to be tried again once their copy is confirmed."""
        settled = by_batch(ended)
        again = np.flatnonzero(found.outcomes == RETRY)
        if again.size:
            tried_again = retries(ended, again)
            settled.subtract(retry.pick.batch for retry in tried_again)
            self._copies.retry(tried_again)
        for batch, messages in settled.items():
            batch.count_off(messages)


def _some_repeated(found: Outcomes) -> bool:
    """Whether a seq stands twice."""
    return not is_increasing(np.sort(found.seqs))
