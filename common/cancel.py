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
        canceled, fresh = Canceled(), [np.zeros(0, np.int64)]
        for seqs in _pieces(announced):
            of_piece, fresh_of_piece = await self._cancel(run, seqs)
            canceled += of_piece
            fresh.append(fresh_of_piece)
        await self._tell(run, np.concatenate(fresh))
        return canceled

    async def cancel(self, run: str, seqs: Seqs) -> Canceled:
        """Cancels those of some messages that are queued. Raises UnknownRun."""
        canceled, fresh = await self._cancel(run, seqs)
        await self._tell(run, fresh)
        return canceled

    async def _cancel(self, run: str, seqs: Seqs) -> tuple[Canceled, Seqs]:
        """What became of the messages, and those that are canceled now and were not before."""
        before = await self._ledger.canceled(run, seqs)
        marks = await self._ledger.cancel(run, seqs)
        states = (await self._ledger.states(run, seqs))[~marks]
        canceled = Canceled(
            canceled=int(np.count_nonzero(marks)),
            sending=int(np.count_nonzero(states == State.SENDING)),
            sent=int(np.count_nonzero(states == State.SENT)),
            failed=int(np.count_nonzero(states == State.FAILED)),
        )
        return canceled, seqs[marks & ~before]

    async def _tell(self, run: str, seqs: Seqs) -> None:
        """Tells that messages are canceled. If the first ones are not tracked, none of the run is."""
        at_us = time.time_ns() // 1000
        for i in range(0, seqs.size, RECORDS_A_CALL):
            found = await self._tracker.records(run, seqs[i : i + RECORDS_A_CALL].tolist())
            records = [record for record in found if record is not None]
            if not records:
                return
            self._tracker.publish([_step(record, at_us) for record in records])


def _pieces(announced: int) -> Iterator[Seqs]:
    """All seqs of a run, as many at a time as the ledger has in a piece."""
    for first in range(0, announced, PIECE_MESSAGES):
        yield np.arange(first, min(first + PIECE_MESSAGES, announced))


def _step(record: Record, at_us: int) -> Step:
    return Step(run=record.run, message=record.message, status=Status.CANCELED, attempt=0, at_us=at_us)
