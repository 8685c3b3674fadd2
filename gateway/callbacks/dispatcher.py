"""Dispatches callbacks: finds those to check, and delivers those whose message has ended.

A callback is checked when an event says that its message has ended, and when the store's schedule says so. The ledger
alone decides whether the message has ended. Leases keep two gateways from delivering the same callback at once.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress

from common.ledger.port import Ledger
from common.tracking.port import Tracker
from gateway.callbacks.address import is_public, url_error
from gateway.callbacks.delivery import Deliverer, Delivery, pause_s
from gateway.callbacks.events import EndEvents
from gateway.callbacks.finals import ENDED, FinalStatuses
from gateway.callbacks.limits import CallbackLimits
from gateway.callbacks.port import Callback, Callbacks, Reschedule
from gateway.callbacks.posting import Poster, guarded_session

log = logging.getLogger(__name__)


class Dispatcher:
    """Checks the URLs of callbacks, and delivers callbacks. Without a `secret`, callbacks are off."""

    def __init__(
        self,
        callbacks: Callbacks,
        tracker: Tracker,
        ledger: Ledger,
        *,
        secret: str | None,
        allow_private: bool,
        limits: CallbackLimits | None = None,
    ) -> None:
        self._callbacks = callbacks
        self._secret = secret
        self._allow_private = allow_private
        self._limits = limits or CallbackLimits()
        self._finals = FinalStatuses(ledger, tracker)
        self._events = EndEvents(tracker, self._limits.expected)

    def url_error(self, url: str) -> str | None:
        """Returns what is wrong with a callback URL, as far as its text shows; None if nothing is."""
        if self._secret is None:
            return "callbacks are off: set CALLBACK_SECRET"
        return url_error(url, self._allow_private)

    def expect(self, uuids: Sequence[str]) -> None:
        """Awaits the ends of messages that this gateway has accepted with a callback."""
        self._events.expect(uuids)

    async def run(self) -> None:
        """Delivers until cancelled."""
        if self._secret is None:
            await asyncio.Event().wait()
            return
        allows = (lambda _: True) if self._allow_private else is_public
        async with guarded_session(allows, self._limits) as session:
            await self._run(Poster(session, self._secret))

    async def _run(self, poster: Poster) -> None:
        held: dict[str, Callback] = {}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._events.listen())
                deliverer = Deliverer(
                    self._callbacks, self._finals, poster=poster, tasks=tasks, limits=self._limits
                )
                held = deliverer.held
                await self._find_forever(deliverer)
        finally:
            await self._give_back(held.values())

    async def _give_back(self, callbacks: Iterable[Callback]) -> None:
        """Makes callbacks due at once, for another gateway."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.stop_s):
                await self._callbacks.reschedule([Reschedule(callback, 0.0) for callback in callbacks])

    async def _find_forever(self, deliverer: Deliverer) -> None:
        """Checks callbacks on events; and those that are due every `poll_s`, or at once after a full page."""
        clock, page = asyncio.get_running_loop().time, self._limits.page
        next_poll_s = clock()
        while True:
            await deliverer.wait_for_room(2 * page)
            ended = self._events.take(page)
            due = []
            if clock() >= next_poll_s:
                due = await self._callbacks.due(page)
                next_poll_s = clock() + (self._limits.poll_s if len(due) < page else 0)
            if ended or due:
                await self._check(list({*ended, *due}), deliverer)
            else:
                await self._events.wait(next_poll_s - clock())

    async def _check(self, uuids: Sequence[str], deliverer: Deliverer) -> None:
        """Leases callbacks, and delivers, reschedules or removes each."""
        expired: list[str] = []
        later: list[Reschedule] = []
        for delivery in await self._lease(uuids):
            callback = delivery.callback
            if callback.final is not None or delivery.status in ENDED:
                if (change := deliverer.start(delivery)) is not None:
                    later.append(change)
            elif delivery.status is None or callback.age_s > self._callbacks.retention.message_s:
                expired.append(callback.uuid)
            else:
                later.append(Reschedule(callback, pause_s(callback.age_s, self._limits)))
        await self._callbacks.reschedule(later)
        await self._remove(expired)

    async def _lease(self, uuids: Sequence[str]) -> list[Delivery]:
        lease_until_s = asyncio.get_running_loop().time() + self._limits.lease_s
        callbacks = await self._callbacks.lease(uuids, self._limits.lease_s)
        statuses = await self._finals.statuses([callback for callback in callbacks if callback.final is None])
        return [Delivery(callback, statuses.get(callback.uuid), lease_until_s) for callback in callbacks]

    async def _remove(self, uuids: Sequence[str]) -> None:
        if uuids:
            log.warning(
                "callbacks_dropped", extra={"count": len(uuids), "reason": "the messages did not end"}
            )
            await self._callbacks.remove(uuids)
