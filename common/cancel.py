"""Cancels queued messages, one or all of a run, and publishes the steps of those that are tracked."""

import time
from collections.abc import Iterator

import msgspec
import numpy as np

from common.ledger.pieces import PIECE_MESSAGES
from common.ledger.port import Ledger
from common.messages import Seqs, State
from common.tracking.port import Record, Status, Step, Tracker

RECORDS_A_CALL = 500


class Canceled(msgspec.Struct, frozen=True, kw_only=True):
    """The number of messages by status, after a cancellation.

    Attributes:
        canceled: How many are canceled, now or since an earlier call.
        sending: How many are being sent.
        sent: How many were sent before.
        failed: How many had failed before.
    """

    canceled: int = 0
    sending: int = 0
    sent: int = 0
    failed: int = 0

    def __add__(self, other: "Canceled") -> "Canceled":
        """The sum of each count."""
        counts = {name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__}
        return Canceled(**counts)


class Cancellation:
    """Cancels messages in a ledger, and publishes their steps."""

    def __init__(self, ledger: Ledger, tracker: Tracker) -> None:
        self._ledger = ledger
        self._tracker = tracker

    async def cancel_run(self, run: str) -> Canceled:
        """Closes a run, so that no more can be published in it, and cancels its queued messages. Raises UnknownRun."""
        await self._ledger.close_run(run)
        announced = (await self._ledger.publication(run)).announced
        canceled, tracked = Canceled(), True
        for seqs in _pieces(announced):
            of_piece, found = await self._cancel(run, seqs, tell=tracked)
            canceled += of_piece
            tracked = tracked and found
        return canceled

    async def cancel(self, run: str, seqs: Seqs) -> Canceled:
        """Cancels those of some messages that are queued. Raises UnknownRun."""
        return (await self._cancel(run, seqs, tell=True))[0]

    async def _cancel(self, run: str, seqs: Seqs, *, tell: bool) -> tuple[Canceled, bool]:
        """The counts, and whether the messages are tracked as far as is known."""
        before = await self._ledger.canceled(run, seqs)
        marks = await self._ledger.cancel(run, seqs)
        states = (await self._ledger.states(run, seqs))[~marks]
        canceled = Canceled(
            canceled=int(np.count_nonzero(marks)),
            sending=int(np.count_nonzero(states == State.SENDING)),
            sent=int(np.count_nonzero(states == State.SENT)),
            failed=int(np.count_nonzero(states == State.FAILED)),
        )
        fresh = seqs[marks & ~before]
        return canceled, await self._tell(run, fresh.tolist()) if tell and fresh.size else tell

    async def _tell(self, run: str, seqs: list[int]) -> bool:
        """Publishes the steps of canceled messages. False if the run is not tracked, by its first messages."""
        at_us = time.time_ns() // 1000
        for i in range(0, len(seqs), RECORDS_A_CALL):
            found = await self._tracker.records(run, seqs[i : i + RECORDS_A_CALL])
            records = [record for record in found if record is not None]
            if not records:
                return False
            self._tracker.publish([_step(record, at_us) for record in records])
        return True


def _pieces(announced: int) -> Iterator[Seqs]:
    """All seqs of a run, as many at a time as the ledger has in a piece."""
    for first in range(0, announced, PIECE_MESSAGES):
        yield np.arange(first, min(first + PIECE_MESSAGES, announced))


def _step(record: Record, at_us: int) -> Step:
    return Step(run=record.run, message=record.message, status=Status.CANCELED, attempt=0, at_us=at_us)
