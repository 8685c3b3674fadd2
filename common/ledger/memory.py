"""The ledger in memory, for embedded runs and tests. It takes one byte a message."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.counters import Tally
from common.ledger import refusals
from common.ledger.histogram import histogram
from common.ledger.memory_run import MemoryRun, Totals
from common.ledger.pieces import PIECE_MESSAGES
from common.ledger.port import TIMING, Timing
from common.ledger.values import (
    Claim,
    Outcomes,
    Publication,
    SenderStatus,
    Snapshot,
    Standing,
)
from common.messages import Seqs, State


class MemoryLedger:
    """Runs in memory. `clock` gives the Unix time in seconds."""

    def __init__(self, timing: Timing = TIMING, clock: Callable[[], float] = time.time) -> None:
        self._timing = timing
        self._clock = clock
        self._all = Totals()
        self._runs: dict[str, MemoryRun] = {}
        self._forgotten: set[str] = set()
        self._senders: dict[str, tuple[SenderStatus, int]] = {}
        self._listed_us: dict[str, int] = {}
        self._began_us = self._now_us()

    async def begin(self, run: str, recipe: str, total: int, producer: str) -> None:
        self.begin_now(run, recipe, total, producer)

    def begin_now(self, run: str, recipe: str, total: int, producer: str) -> None:
        """`begin` as a plain function: a caller can change several stores in one step. Others have one, too."""
        known = self._runs.get(run)
        if known is not None and known.producer != producer:
            raise refusals.run_exists(run)
        if known is None:
            now = self._now_us()
            self._forgotten.discard(run)
            self._runs[run] = MemoryRun(
                recipe=recipe, total=total, producer=producer, producer_seen_us=now, started_us=now
            )

    async def resume(self, run: str, producer: str) -> Publication:
        known = self._known(run)
        if known.producer != producer and self._publishing(known):
            raise refusals.run_busy(run, known.producer)
        known.producer, known.producer_seen_us = producer, self._now_us()
        return await self.publication(run)

    async def leave(self, run: str, producer: str) -> None:
        known = self._runs.get(run)
        if known is not None and known.producer == producer:
            known.producer_seen_us = 0

    async def announce(self, run: str, first: int, count: int) -> None:
        self.announce_now(run, first, count)

    def takes_more(self, run: str) -> bool:
        """Whether more of a run may be announced."""
        known = self._runs.get(run)
        return known is not None and not known.closed

    def announce_now(self, run: str, first: int, count: int) -> None:
        """`announce`."""
        announced = self._runs[run].announced if run in self._runs else 0
        if first > announced and run not in self._forgotten:
            raise refusals.announcements_lost(run, announced, first)
        known = self._opened(run)
        if known is None:
            return
        upto = first + count
        if upto > known.announced:
            if known.closed:
                raise refusals.run_closed(run)
            counted = sum(known.announced <= seq < upto for seq in known.unannounced)
            self._publish(known, upto - known.announced - counted)
            known.announced = upto
        known.producer_seen_us = self._now_us()

    async def confirm(self, run: str, upto: int) -> None:
        self.confirm_now(run, upto)

    def confirm_now(self, run: str, upto: int) -> None:
        """`confirm`."""
        known = self._runs.get(run)
        if known is not None:
            known.confirmed = max(known.confirmed, upto)
            known.producer_seen_us = self._now_us()

    def close_now(self, run: str) -> None:
        """No more of a run will be announced; what is announced may not be confirmed yet."""
        known = self._runs.get(run)
        if known is not None and not known.closed:
            known.total, known.closed = known.announced, True

    async def close_run(self, run: str) -> None:
        known = self._known(run)
        known.total = known.confirmed = known.announced
        known.closed = True

    async def forget(self, run: str) -> None:
        known = self._known(run)
        published, settled = known.tally.published, known.tally.settled
        if not known.producer:
            raise refusals.never_begun(run)
        if published > settled or known.total > published:
            raise refusals.run_open(run, published=published, settled=settled, total=known.total)
        del self._runs[run]
        self._forgotten.add(run)

    async def runs(self, newest: int | None = None) -> list[str]:
        names = list(self._runs)
        return names if newest is None else names[max(0, len(names) - newest) :]

    async def open_runs(self) -> list[str]:
        return [name for name, known in self._runs.items() if not known.over]

    async def publication(self, run: str) -> Publication:
        known = self._known(run)
        return Publication(
            recipe=known.recipe,
            total=known.total,
            announced=known.announced,
            confirmed=known.confirmed,
            publishing=self._publishing(known),
        )

    async def replayed(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        marked = self._runs[run].replayed if run in self._runs else set()
        return np.array([seq in marked for seq in seqs.tolist()], np.bool_)

    async def mark_replayed(self, run: str, seqs: Seqs) -> None:
        if run in self._runs:
            self._runs[run].replayed.update(seqs.tolist())

    async def states(self, run: str, seqs: Seqs) -> NDArray[np.uint8]:
        known = self._known(run)
        states = np.zeros(seqs.size, np.uint8)
        held = seqs < known.states.size
        states[held] = known.states[seqs[held]]
        return states

    async def unsettled(self, run: str) -> AsyncIterator[Seqs]:
        known = self._known(run)
        announced, unannounced = known.announced, known.beyond_announced()
        pieces = np.unique(unannounced // PIECE_MESSAGES).tolist()
        for piece in sorted({*range(-(-announced // PIECE_MESSAGES)), *pieces}):
            base, beyond = piece * PIECE_MESSAGES, (piece + 1) * PIECE_MESSAGES
            seqs = np.concatenate(
                [
                    np.arange(base, min(beyond, announced)),
                    unannounced[(unannounced >= base) & (unannounced < beyond)],
                ]
            )
            seqs = seqs[await self.states(run, seqs) < State.SENT]
            if seqs.size:
                yield seqs

    async def claim(self, run: str, seqs: Seqs, redelivered: bool) -> Claim:
        known = self._opened(run)
        if known is None:
            return Claim(np.full(seqs.size, Standing.SETTLED, np.uint8), age_s=0.0)
        known.hold(int(seqs.max(initial=0)))
        self._publish_unannounced(known, seqs)
        states = known.states[seqs]
        standing = np.full(seqs.size, Standing.SETTLED, np.uint8)
        standing[states == State.QUEUED] = Standing.NEW
        standing[states == State.SENDING] = Standing.AMBIGUOUS if redelivered else Standing.DUPLICATE
        new = standing == Standing.NEW
        known.states[seqs[new]] = State.SENDING
        ambiguous = int(np.count_nonzero(standing == Standing.AMBIGUOUS))
        self._count(known, Tally(sending=int(np.count_nonzero(new)), ambiguous=ambiguous))
        return Claim(standing, age_s=max(0, self._now_us() - known.started_us) / 1e6)

    async def settle(self, run: str, outcomes: Outcomes, sender: str = "", again: bool = False) -> None:
        known = self._opened(run)
        if known is None:
            return
        known.hold(int(outcomes.seqs.max(initial=0)))
        states = known.states[outcomes.seqs]
        # To retry a message that is queued already changes nothing, so a repeated call counts it once.
        moves = (states < State.SENT) & (states != outcomes.outcomes)
        moved = outcomes.where(moves)
        self._publish_unannounced(known, moved.seqs)
        known.states[moved.seqs] = moved.outcomes
        from_sending = int(np.count_nonzero(states[moves] == State.SENDING))
        sent, failed, retried = moved.counts()
        final = moved.times_us[moved.outcomes >= State.SENT]
        change = Tally(
            sending=-from_sending,
            sent=sent,
            failed=failed,
            retried=retried,
            ambiguous=moved.ambiguous_count(again),
            total_time_us=int(final.sum()),
        )
        self._count(known, change)
        self._note_settled(known, histogram(final), self._now_us())
        if sender:
            self._count_for_sender(sender, change)

    async def release(self, run: str, seqs: Seqs, again: bool = False) -> None:
        known = self._runs.get(run)
        if known is None:
            return
        known.hold(int(seqs.max(initial=0)))
        held = seqs[known.states[seqs] == State.SENDING]
        known.states[held] = State.QUEUED
        self._count(known, Tally(sending=-held.size, ambiguous=held.size if again else 0))

    async def cancel(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        known = self._opened(run)
        if known is None:
            return np.zeros(seqs.size, np.bool_)
        known.hold(int(seqs.max(initial=0)))
        fresh = seqs[known.states[seqs] == State.QUEUED]
        self._publish_unannounced(known, fresh)
        known.states[fresh] = State.FAILED
        known.canceled[fresh] = True
        if fresh.size:
            self._count(known, Tally(failed=fresh.size, canceled=fresh.size))
            self._note_settled(known, {}, self._now_us())
        return known.canceled[seqs]

    async def canceled(self, run: str, seqs: Seqs) -> NDArray[np.bool_]:
        known = self._known(run)
        canceled = np.zeros(seqs.size, np.bool_)
        held = seqs < known.canceled.size
        canceled[held] = known.canceled[seqs[held]]
        return canceled

    async def reject(self, bodies: int) -> None:
        self._all.count(Tally(rejected=bodies))

    async def ready(self) -> None:
        return

    async def heartbeat(self, sender: str, slots: int, in_flight: int) -> int:
        status, _ = self._senders.get(sender, (SenderStatus(), 0))
        self._senders[sender] = (replace(status, slots=slots, in_flight=in_flight), self._now_us())
        return self._listed_us.setdefault(sender, self._now_us())

    def _count_for_sender(self, sender: str, change: Tally) -> None:
        status, seen_us = self._senders.get(sender, (SenderStatus(), self._now_us()))
        counted = {
            name: getattr(status, name) + getattr(change, name)
            for name in ("sent", "failed", "retried", "total_time_us")
        }
        self._senders[sender] = replace(status, **counted), seen_us

    async def deregister(self, sender: str) -> None:
        self._senders.pop(sender, None)

    async def snapshot(self, run: str | None = None) -> Snapshot:
        known = self._known(run) if run is not None else None
        totals = known.totals if known else self._all
        now, silence_us = self._now_us(), self._timing.sender_silence_s * 1e6
        return Snapshot(
            **msgspec.structs.asdict(totals.tally),
            total=known.total if known else sum(r.total for r in self._runs.values()),
            started_us=known.started_us if known else self._began_us,
            last_settled_us=totals.last_settled_us,
            now_us=now,
            latency=dict(totals.latency),
            senders={
                name: status for name, (status, seen) in self._senders.items() if now - seen < silence_us
            },
        )

    async def recount(self, run: str) -> dict[str, int]:
        known = self._known(run)
        counts = np.bincount(known.states, minlength=4)
        by_state = {s.name.lower(): int(counts[s]) for s in (State.SENDING, State.SENT, State.FAILED)}
        return {"published": known.announced + known.beyond_announced().size, **by_state}

    async def close(self) -> None:
        return

    def _known(self, run: str) -> MemoryRun:
        try:
            return self._runs[run]
        except KeyError:
            raise refusals.unknown_run(run) from None

    def _publishing(self, known: MemoryRun) -> bool:
        """Whether the producer of a run is alive and has not finished."""
        silent_us = self._now_us() - known.producer_seen_us
        return not known.published and silent_us < self._timing.producer_silence_s * 1e6

    def _opened(self, run: str) -> MemoryRun | None:
        """The run; a new one if it was not begun. None if it was forgotten."""
        if run in self._forgotten:
            return None
        if run not in self._runs:
            self._runs[run] = MemoryRun(started_us=self._now_us())
        return self._runs[run]

    def _publish_unannounced(self, known: MemoryRun, seqs: Seqs) -> None:
        """Counts seqs that are sent and were not announced, each once."""
        fresh = set(seqs[seqs >= known.announced].tolist()) - known.unannounced
        known.unannounced |= fresh
        self._publish(known, len(fresh))

    def _publish(self, known: MemoryRun, count: int) -> None:
        if count:  # nearly always 0: messages are announced before they are claimed
            self._count(known, Tally(published=count))

    def _count(self, known: MemoryRun, change: Tally) -> None:
        """Adds to the counters of a run and of all runs."""
        for totals in (self._all, known.totals):
            totals.count(change)

    def _note_settled(self, known: MemoryRun, times: dict[int, int], now_us: int) -> None:
        """Adds the send times of settled messages, as a histogram, to those of a run and of all runs."""
        for totals in (self._all, known.totals):
            totals.latency.update(times)
            totals.last_settled_us = now_us

    def _now_us(self) -> int:
        return int(self._clock() * 1e6)
