"""Reads how messages ended: the ledger decides the status, and the tracker adds attempts and time."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress

from common.errors import UnknownRun
from common.ledger.port import Ledger
from common.tracking.port import Status, Tracker
from common.tracking.statuses import statuses_of
from gateway.callbacks.port import Callback, FinalStatus

ENDED = frozenset({Status.SENT, Status.FAILED, Status.CANCELED})


async def read_statuses(ledger: Ledger, callbacks: Sequence[Callback]) -> dict[str, Status]:
    """Returns the statuses of messages by message id. Those of unknown runs are missing."""
    statuses = {callback.uuid: callback.final.status for callback in callbacks if callback.final}
    for run, seqs in _by_run(callback for callback in callbacks if callback.final is None).items():
        with suppress(UnknownRun):
            found = await statuses_of(ledger, run, seqs)
            statuses |= {f"{run}.{seq}": status for seq, status in zip(seqs, found, strict=True)}
    return statuses


def _by_run(callbacks: Iterable[Callback]) -> dict[str, list[int]]:
    seqs: dict[str, list[int]] = defaultdict(list)
    for callback in callbacks:
        seqs[callback.run].append(callback.seq)
    return seqs


async def read_final(tracker: Tracker, callback: Callback, status: Status) -> FinalStatus:
    """Returns how a message with this final status ended. Steps may be missing."""
    track = await tracker.track(callback.run, callback.seq)
    steps = track.steps if track else []
    attempts = max((step.attempt for step in steps), default=0)
    if status is Status.SENT:
        attempts = max(attempts, 1)
    at_us = max((step.at_us for step in steps if step.status is status), default=None)
    return FinalStatus(status, attempts, at_us)
