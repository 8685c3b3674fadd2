"""Claims messages and starts their sends."""

import numpy as np
from numpy.typing import NDArray

from common.ledger.port import Claims
from common.ledger.values import Standing
from common.messages import Lane, Message, Outcome, is_increasing
from common.tracking.port import Tracker
from sender.providers.bulk import BulkProvider, Sends
from sender.settle import Settler
from sender.slots import Slots
from sender.tracking import begun_steps
from sender.unacked import Group, Piece, UnackedBatch


class Starter:
    """Claims messages of a lane that have a slot, and starts the sends of those that are to be sent.

    Attributes:
        stopping: Whether what is claimed from now on is given back.
        not_begun: The messages that were claimed and given back, by the batch that they came in.
    """

    def __init__(
        self,
        lane: Lane,
        *,
        slots: Slots,
        ledger: Claims,
        provider: BulkProvider,
        settler: Settler,
        tracker: Tracker | None = None,
    ) -> None:
        self.stopping = False
        self.not_begun: dict[UnackedBatch, list[int]] = {}
        self._lane = lane
        self._slots = slots
        self._ledger = ledger
        self._provider = provider
        self._settler = settler
        self._tracker = tracker

    async def start(self, group: Group, pieces: list[Piece]) -> None:
        """Claims messages that have slots already, and starts their sends."""
        sends = self._sends(group, pieces)
        if len(pieces) > 1 and _some_repeated(sends):
            # Two copies of a message came together: the second claim of it must see the first.
            for piece in pieces:
                await self.start(group, [piece])
            return
        claim = await self._ledger.claim(group.run, sends.seqs, group.again)
        sends.age_s = claim.age_s
        sends = self._drop_unwanted(sends, claim.standing)
        if self.stopping:
            await self._give_back(sends)
        else:
            self._hand_over(self._fail_bad_numbers(sends))

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
            simulated=group.simulated,
        )

    def _drop_unwanted(self, sends: Sends, standing: NDArray[np.uint8]) -> Sends:
        """Drops messages that are settled already or in flight elsewhere; returns the others."""
        wanted = standing <= Standing.AMBIGUOUS
        if wanted.all():
            return sends
        unwanted = sends.owners[~wanted]
        self._slots.release(self._lane, unwanted.size)
        for owner, count in enumerate(np.bincount(unwanted).tolist()):
            sends.batches[owner].count_off(count)
        return sends.part(np.flatnonzero(wanted))

    async def _give_back(self, sends: Sends) -> None:
        """The sender stopped while it claimed: the sends do not begin."""
        await self._ledger.release(sends.run, sends.seqs)
        for seq, owner in zip(sends.seqs.tolist(), sends.owners.tolist(), strict=True):
            self.not_begun.setdefault(sends.batches[owner], []).append(seq)
        self._slots.release(self._lane, sends.seqs.size)

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
        if not sends.seqs.size:
            return
        if self._provider.reads_messages:
            sends.messages = _messages(sends)
        if sends.track and self._tracker is not None:
            self._tracker.publish(begun_steps(sends))
        self._provider.start(sends)

    def _finished(self, sends: Sends, first: int, beyond: int) -> None:
        self._settler.add(sends, first, beyond)
        self._slots.release(self._lane, beyond - first)


def _some_repeated(sends: Sends) -> bool:
    """Whether a seq stands twice."""
    return not is_increasing(sends.seqs) and np.unique(sends.seqs).size < sends.seqs.size


def _messages(sends: Sends) -> list[Message]:
    """The messages, each from the batch that it came in."""
    seqs, owners = sends.seqs.tolist(), sends.owners.tolist()
    return [sends.batches[owner].messages[seq] for seq, owner in zip(seqs, owners, strict=True)]
