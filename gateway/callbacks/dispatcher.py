"""Dispatches callbacks: finds those to check, and delivers those whose message has ended.

An event of a message's end triggers a check of its callback; the store's schedule makes up for missed events. The
ledger alone decides whether the message has ended. Leases keep two gateways from delivering one callback at once.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress

from common.ledger.port import Ledger
from common.tracking.port import Tracker
from gateway.callbacks.address import AddressRules, is_public, url_error
from gateway.callbacks.delivery import Deliverer, Delivery, check_later
from gateway.callbacks.events import EndEvents
from gateway.callbacks.finals import ENDED, read_statuses
from gateway.callbacks.limits import CallbackLimits
from gateway.callbacks.port import Callback, Callbacks, Reschedule
from gateway.callbacks.posting import OwnerOf, Poster, guarded_session
from gateway.callbacks.signing import Signer

log = logging.getLogger(__name__)


class Dispatcher:
    """Checks the URLs of callbacks, and delivers callbacks. Without a `signer`, callbacks are off.

    Args:
        owner_of: Gives the owner of a run.
        rules: Which URLs are allowed.
    """

    def __init__(
        self,
        callbacks: Callbacks,
        tracker: Tracker,
        ledger: Ledger,
        *,
        signer: Signer | None,
        owner_of: OwnerOf,
        rules: AddressRules,
        limits: CallbackLimits | None = None,
    ) -> None:
        self._callbacks = callbacks
        self._signer = signer
        self._owner_of = owner_of
        self._rules = rules
        self._limits = limits or CallbackLimits()
        self._tracker = tracker
        self._ledger = ledger
        self._events = EndEvents(tracker, self._limits.expected)
        self._next_poll_s = 0.0

    def url_error(self, url: str) -> str | None:
        """Returns what is wrong with a callback URL, as far as its text shows; None if nothing is."""
        if self._signer is None:
            return "callbacks are off: set CALLBACK_SECRET"
        return url_error(url, self._rules)

    def expect(self, uuids: Sequence[str]) -> None:
        """Awaits the ends of messages that this gateway has accepted with a callback."""
        self._events.expect(uuids)

    async def run(self) -> None:
        """Delivers until cancelled."""
        if self._signer is None:
            await asyncio.Event().wait()
            return
        allows = (lambda _: True) if self._rules.allow_private else is_public
        async with guarded_session(allows, self._limits) as session:
            await self._run(Poster(session, self._signer, self._owner_of))

    async def _run(self, poster: Poster) -> None:
        held: dict[str, Callback] = {}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._events.listen())
                deliverer = Deliverer(
                    self._callbacks, self._tracker, poster=poster, tasks=tasks, limits=self._limits
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
        """Checks callbacks whose messages have ended, by events, and callbacks that are due."""
        clock, page = asyncio.get_running_loop().time, self._limits.page
        while True:
            await deliverer.wait_for_room(2 * page)
            uuids = [*self._events.take(page), *await self._due()]
            if uuids:
                await self._check(list(dict.fromkeys(uuids)), deliverer)
            else:
                await self._events.wait(self._next_poll_s - clock())

    async def _due(self) -> list[str]:
        """The callbacks that are due, every `poll_s`, or at once after a full page."""
        now = asyncio.get_running_loop().time()
        if now < self._next_poll_s:
            return []
        due = await self._callbacks.due(self._limits.page)
        self._next_poll_s = now + (self._limits.poll_s if len(due) < self._limits.page else 0)
        return due

    async def _check(self, uuids: Sequence[str], deliverer: Deliverer) -> None:
        """Leases callbacks, and delivers, reschedules or removes each."""
        leased = await self._lease(uuids)
        changes = [self._start(delivery, deliverer) for delivery in leased]
        await self._callbacks.reschedule([change for change in changes if change is not None])
        await self._remove([it.callback.uuid for it in leased if self._is_expired(it)])

    async def _lease(self, uuids: Sequence[str]) -> list[Delivery]:
        lease_until_s = asyncio.get_running_loop().time() + self._limits.lease_s
        callbacks = await self._callbacks.lease(uuids, self._limits.lease_s)
        statuses = await read_statuses(self._ledger, callbacks)
        return [Delivery(callback, statuses.get(callback.uuid), lease_until_s) for callback in callbacks]

    def _start(self, delivery: Delivery, deliverer: Deliverer) -> Reschedule | None:
        if delivery.status in ENDED:
            return deliverer.start(delivery)
        return check_later(delivery.callback, delivery.callback.age_s, self._limits)

    def _is_expired(self, delivery: Delivery) -> bool:
        """Whether the message cannot end any more: its run is forgotten, or it had MESSAGE_TTL to end."""
        is_late = delivery.callback.age_s > self._callbacks.retention.message_s
        return delivery.status is None or (is_late and delivery.status not in ENDED)

    async def _remove(self, uuids: Sequence[str]) -> None:
        if uuids:
            about = {"count": len(uuids), "reason": "the messages did not end"}
            log.warning("callbacks_dropped", extra=about)
            await self._callbacks.remove(uuids)
