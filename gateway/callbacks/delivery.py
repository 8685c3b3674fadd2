"""Delivers callbacks: attempts each, and removes or reschedules it by the result."""

import asyncio
import logging
import random
from dataclasses import dataclass

from msgspec.structs import replace

from common.tracking.port import Status, Tracker
from gateway.callbacks.finals import read_final
from gateway.callbacks.hosts import Health, Host, HostFailing, Hosts
from gateway.callbacks.limits import CallbackLimits
from gateway.callbacks.port import Callback, Callbacks, Reschedule
from gateway.callbacks.posting import Poster, PostResult

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A leased callback.

    Attributes:
        status: The message's status; None if the ledger has forgotten its run.
        lease_until_s: When the lease ends, by the loop's clock.
    """

    callback: Callback
    status: Status | None
    lease_until_s: float


class Deliverer:
    """Delivers callbacks, each in a task of `tasks`.

    Attributes:
        held: The callbacks that wait for their hosts or are being delivered, by message id.
    """

    def __init__(
        self,
        callbacks: Callbacks,
        tracker: Tracker,
        *,
        poster: Poster,
        tasks: asyncio.TaskGroup,
        limits: CallbackLimits,
    ) -> None:
        self.held: dict[str, Callback] = {}
        self._callbacks = callbacks
        self._tracker = tracker
        self._poster = poster
        self._tasks = tasks
        self._limits = limits
        self._hosts = Hosts(limits.hosts)
        self._released = asyncio.Event()

    async def wait_for_room(self, count: int) -> None:
        """Waits until `count` more callbacks can be held."""
        while len(self.held) + count > self._limits.held:
            self._released.clear()
            await self._released.wait()

    def start(self, delivery: Delivery) -> Reschedule | None:
        """Delivers a callback of a message that has ended. If its host's queue is full, returns when to try again."""
        callback = delivery.callback
        host = self._hosts.host(callback.host)
        if not self._hosts.reserve(host):
            # The queue of a new host grows as soon as the host responds.
            age_s = 0 if host.health is Health.NEW else callback.age_s
            return check_later(callback, age_s, self._limits)
        self.held[callback.uuid] = callback
        self._tasks.create_task(self._deliver(delivery, host))
        return None

    async def _deliver(self, delivery: Delivery, host: Host) -> None:
        """Attempts a delivery once. If it is cancelled, the callback stays held."""
        callback = delivery.callback
        try:
            await self._store(callback, await self._attempt(delivery, host))
        except HostFailing:
            await self._store(callback, check_later(callback, callback.age_s, self._limits))
        except Exception as error:  # noqa: BLE001  # one callback must not end the delivery of all others
            log.error("callback_failed", extra={"uuid": callback.uuid, "reason": type(error).__name__})
            await self._store(callback, Reschedule(callback, self._limits.max_pause_s))
        self._release(callback)

    def _release(self, callback: Callback) -> None:
        if self.held.get(callback.uuid) is callback:  # else its lease expired, and it was leased again
            del self.held[callback.uuid]
        self._released.set()

    async def _attempt(self, delivery: Delivery, host: Host) -> Reschedule | None:
        """Posts once. Returns when to try again; None to end the attempts."""
        callback = delivery.callback
        async with self._hosts.slot(host):
            if asyncio.get_running_loop().time() > delivery.lease_until_s - self._limits.min_lease_s:
                return Reschedule(callback, 0.0)  # another gateway could post at the same time
            assert delivery.status is not None
            final = callback.final or await read_final(self._tracker, callback, delivery.status)
            result = await self._poster.post(callback, final)
            self._hosts.note(host, result.is_last, result.took_s)
        return self._next(replace(callback, final=final), result)

    def _next(self, callback: Callback, result: PostResult) -> Reschedule | None:
        if result.delivered:
            return None
        failures = callback.failures + 1
        if result.is_last or failures == self._limits.attempts:
            # Only the host: path and query may hold secrets.
            about = {"uuid": callback.uuid, "host": callback.host, "tries": failures, "reason": result.reason}
            log.warning("callback_given_up", extra=about)
            return None
        delay_s = self._limits.first_retry_s * self._limits.retry_factor**callback.failures
        return Reschedule(replace(callback, failures=failures), _spread(delay_s))

    async def _store(self, callback: Callback, change: Reschedule | None) -> None:
        if change is None:
            await self._callbacks.remove([callback.uuid])
        else:
            await self._callbacks.reschedule([change])


def check_later(callback: Callback, age_s: float, limits: CallbackLimits) -> Reschedule:
    """Reschedules a callback that cannot be delivered yet. The pause grows with the age."""
    return Reschedule(callback, _spread(min(limits.max_pause_s, max(limits.min_pause_s, age_s / 2))))


def _spread(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)
