"""Settles what has ended, in groups, and acks what is done with.

The order is: keep the copy of a failure, settle, publish the copy of a retry, ack. A crash between any two of these
steps ends right: a message that is not settled is delivered again and found by its claim; one that is settled and not
acked is delivered again and skipped.
"""

import asyncio
import contextlib
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from common.ledger.port import Claims
from common.ledger.values import Outcomes
from common.messages import Outcome, is_increasing
from common.tracking.port import Tracker
from sender.copies import Copies, Pick, RetryPolicy, picks_of
from sender.providers.bulk import Sends
from sender.timing import LIMITS, TIMING, Limits, Timing
from sender.tracking import Ended, settled_steps
from sender.unacked import UnackedBatch

# Plain numbers: NumPy compares an array with an enum's member many times more slowly.
_RETRY = np.uint8(Outcome.RETRY)
_FAILED = np.uint8(Outcome.FAILED)
# Times in microseconds fit into this many octaves, outcomes into this many values.
_OCTAVES, _VALUES = 64, 4


class SendCounts:
    """Counts settled sends by outcome and by time. A message that is sent twice counts twice.

    Attributes:
        total_time_us: The sum of the times of the sends, in microseconds.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((_OCTAVES, _VALUES), np.int64)
        self.total_time_us = 0

    def add(self, outcomes: NDArray[np.uint8], times_us: NDArray[np.int64], total_time_us: int) -> None:
        """Counts more sends: arrays of one length, and the sum of their times."""
        cells = np.log2(times_us + 1.0).astype(np.intp)
        cells *= _VALUES
        cells += outcomes
        self._counts += np.bincount(cells, minlength=self._counts.size).reshape(self._counts.shape)
        self.total_time_us += total_time_us

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
        counts: Counts what is settled.
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
        """Settles what is added, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._some.wait()
            await self._gather()
            began_s = clock()
            await self.flush()
            # At most half of the time goes into hurried flushes: slots and acks wait for them.
            took_s = max(self._timing.shortest_unsettled_s, clock() - began_s)
            self._hurried_gap_s = min(self._timing.longest_unsettled_s, took_s)

    async def flush(self) -> None:
        """Settles all that has ended, then acks or publishes copies. Waits for a flush that is under way."""
        async with self._flushing:
            ended, self._ended, self._pending = self._ended, [], 0
            self._some.clear()
            self._hurry.clear()
            if self._policy.keep_failed:
                ended = self._keep(ended)
            by_run: dict[str, list[Ended]] = {}
            for part in ended:
                by_run.setdefault(part.sends.run, []).append(part)
            await asyncio.gather(*(self._settle(run, of_run) for run, of_run in by_run.items()))

    async def drain(self) -> None:
        """Settles what is left, and returns once every copy is confirmed."""
        await self.flush()
        await self._copies.drain()
        if self._pending:  # kept failures are settled once their copies are confirmed
            await self.drain()

    async def _gather(self) -> None:
        """Waits for more sends to end: not for long while slots stand idle, and no longer once there are enough."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timing.longest_unsettled_s):
                await self._hurry.wait()
                if self._pending < self._limits.settle_messages:
                    await asyncio.sleep(self._hurried_gap_s)

    def _keep(self, ended: list[Ended]) -> list[Ended]:
        """Begins to keep the failures that are not kept yet; returns the rest, which can be settled now."""
        rest, failures = [], []
        for part in ended:
            failed = self._outcomes([part]) == _FAILED
            if part.sends.kept or not bool(failed.any()):
                rest.append(part)
                continue
            failures.append(part.sends.part(np.flatnonzero(failed) + part.first))
            if not bool(failed.all()):
                others = part.sends.part(np.flatnonzero(~failed) + part.first)
                rest.append(Ended(others, 0, others.seqs.size))
        if failures:
            self._copies.keep(failures, then=self._add_kept)
        return rest

    def _add_kept(self, failures: list[Sends]) -> None:
        """Copies of failures are in the failed queue: now they are settled."""
        for sends in failures:
            sends.kept = True
            self.add(sends, 0, sends.seqs.size)

    async def _settle(self, run: str, ended: list[Ended]) -> None:
        outcomes = self._joined(ended)
        if len(ended) > 1 and not is_increasing(np.sort(outcomes.seqs)):
            # A message that was sent, came again and was sent again: its second settle must see the first.
            middle = len(ended) // 2
            await self._settle(run, ended[:middle])
            await self._settle(run, ended[middle:])
            return
        total_time_us = int(outcomes.times_us.sum())
        self.mean_time_s = total_time_us / outcomes.seqs.size / 1e6
        await self._ledger.settle(run, outcomes, self._sender)
        if self._tracker is not None and any(part.sends.track for part in ended):
            self._tracker.tell(settled_steps(ended, outcomes.outcomes))
        self.counts.add(outcomes.outcomes, outcomes.times_us, total_time_us)
        self._finish(ended, np.flatnonzero(outcomes.outcomes == _RETRY))

    def _finish(self, ended: list[Ended], retried: NDArray[np.intp]) -> None:
        """Counts settled messages off their batches; those to be tried again once their copy is confirmed.

        `retried` are their places among all of the sends in a row.
        """
        settled = _by_batch(ended)
        if retried.size:
            picks, asked_s = _retries(ended, retried)
            settled.subtract(pick.batch for pick in picks)
            self._copies.retry(picks, asked_s)
        for batch, messages in settled.items():
            batch.count_off(messages)

    def _joined(self, ended: list[Ended]) -> Outcomes:
        """The results of all sends in a row."""
        return Outcomes(
            seqs=np.concatenate([sends.seqs[first:beyond] for sends, first, beyond in ended]),
            outcomes=self._outcomes(ended),
            times_us=np.concatenate([sends.times_us[first:beyond] for sends, first, beyond in ended]),
            ambiguous=_ambiguous(ended),
        )

    def _outcomes(self, ended: list[Ended]) -> NDArray[np.uint8]:
        """The outcomes of all sends in a row. A temporary failure of the last attempt is a failure."""
        outcomes = np.concatenate([sends.outcomes[first:beyond] for sends, first, beyond in ended])
        last = [part.sends.attempt >= self._policy.max_attempts for part in ended]
        if any(last):
            over = outcomes == _RETRY
            if not all(last):
                over &= np.repeat(last, [part.beyond - part.first for part in ended])
            outcomes[over] = _FAILED
        return outcomes


def _by_batch(ended: list[Ended]) -> Counter[UnackedBatch]:
    """How many of the ended sends are of each batch."""
    owners_of: dict[Sends, list[NDArray[np.int32]]] = {}
    for sends, first, beyond in ended:
        owners_of.setdefault(sends, []).append(sends.owners[first:beyond])
    found: Counter[UnackedBatch] = Counter()
    for sends, pieces in owners_of.items():
        if len(sends.batches) == 1:
            found[sends.batches[0]] += sum(owners.size for owners in pieces)
            continue
        counts = np.bincount(np.concatenate(pieces), minlength=len(sends.batches))
        touched = np.flatnonzero(counts)
        for owner, count in zip(touched.tolist(), counts[touched].tolist(), strict=True):
            found[sends.batches[owner]] += count
    return found


def _retries(ended: list[Ended], at: NDArray[np.intp]) -> tuple[list[Pick], list[float]]:
    """The messages at some places among all of the sends in a row, and the wait that was asked for each."""
    picks: list[Pick] = []
    asked_s: list[float] = []
    ends = np.cumsum([part.beyond - part.first for part in ended])
    of_part = np.searchsorted(ends, at, side="right")
    before_end = (ends[of_part] - at).tolist()
    for part, left in zip(of_part.tolist(), before_end, strict=True):
        sends, _, beyond = ended[part]
        place = beyond - left
        picks += picks_of(sends, (place,))
        asked_s.append(0.0 if sends.retry_after_s is None else float(sends.retry_after_s[place]))
    return picks, asked_s


def _ambiguous(ended: list[Ended]) -> NDArray[np.bool_] | None:
    if all(part.sends.ambiguous is None for part in ended):
        return None
    return np.concatenate(
        [
            np.zeros(beyond - first, np.bool_) if sends.ambiguous is None else sends.ambiguous[first:beyond]
            for sends, first, beyond in ended
        ]
    )
