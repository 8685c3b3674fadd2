"""Reads how messages ended: the ledger decides the status, and the tracker adds attempts and time."""

import asyncio
from collections.abc import Sequence

from common.errors import UnknownRun
from common.ledger.port import Ledger
from common.tracking.port import Status, Tracker
from common.tracking.statuses import statuses_of
from gateway.callbacks.port import Callback, FinalStatus

ENDED = frozenset({Status.SENT, Status.FAILED, Status.CANCELED})


class FinalStatuses:
    """Reads statuses from the ledger, and attempts and times from the tracker."""

    def __init__(self, ledger: Ledger, tracker: Tracker) -> None:
        self._ledger = ledger
        self._tracker = tracker

    async def statuses(self, callbacks: Sequence[Callback]) -> dict[str, Status]:
        """Returns the statuses of messages by message id. Those of unknown runs are missing."""
        by_run: dict[str, list[Callback]] = {}
        for callback in callbacks:
            by_run.setdefault(callback.run, []).append(callback)
        statuses: dict[str, Status] = {}
        for found in await asyncio.gather(*map(self._statuses_of, by_run.values())):
            statuses.update(found)
        return statuses

    async def _statuses_of(self, callbacks: Sequence[Callback]) -> dict[str, Status]:
        """The statuses of messages of one run."""
        seqs = [callback.seq for callback in callbacks]
        try:
            statuses = await statuses_of(self._ledger, callbacks[0].run, seqs)
        except UnknownRun:
            return {}
        return {callback.uuid: status for callback, status in zip(callbacks, statuses, strict=True)}

    async def final(self, callback: Callback, status: Status) -> FinalStatus:
        """Returns how a message with this final status ended. Steps may be missing."""
        track = await self._tracker.track(callback.run, callback.seq)
        steps = track.steps if track else []
        attempts = max((step.attempt for step in steps), default=0)
        if status is Status.SENT:
            attempts = max(attempts, 1)
        at_us = max((step.at_us for step in steps if step.status is status), default=None)
        return FinalStatus(status, attempts, at_us)
