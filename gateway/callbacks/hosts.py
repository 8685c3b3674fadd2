"""Limits attempts per host, so that slow or dead hosts do not starve others.

A host's last attempt decides its health. Hosts of each health share a pool of slots: a healthy host never waits for a
failing one, and a new host waits for other new ones only. Within a pool, hosts take turns.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from itertools import islice

from gateway.callbacks.limits import HostLimits


class Health(Enum):
    """How a host's last attempt went."""

    NEW = "new"  # there was none
    HEALTHY = "healthy"  # it succeeded, or failed promptly, which costs nothing
    FAILING = "failing"  # it was slow and failed


class HostFailing(Exception):
    """The host began to fail while a callback waited for it."""


class Host:
    """A host.

    Attributes:
        health: Its health.
        held: Callbacks that wait for it or are being posted to it.
        turns: Limits the attempts in progress: to one until the host responds for the first time.
        has_responded: Whether it did.
    """

    def __init__(self) -> None:
        self.health = Health.NEW
        self.held = 0
        self.turns = asyncio.Semaphore(1)
        self.has_responded = False


class Hosts:
    """The hosts that were used last."""

    def __init__(self, limits: HostLimits) -> None:
        self._limits = limits
        self._max_held = {Health.NEW: limits.new_held, Health.HEALTHY: limits.healthy_held, Health.FAILING: 1}
        self._pools = {
            Health.NEW: asyncio.Semaphore(limits.new_slots),
            Health.HEALTHY: asyncio.Semaphore(limits.healthy_slots),
            Health.FAILING: asyncio.Semaphore(limits.failing_slots),
        }
        self._hosts: dict[str, Host] = {}

    def host(self, name: str) -> Host:
        """Returns a host."""
        host = self._hosts.pop(name, None) or Host()
        self._hosts[name] = host
        self._forget_idle()
        return host

    def reserve(self, host: Host) -> bool:
        """Reserves a place in the host's queue, which `slot` frees. Returns False if the queue is full."""
        if host.held >= self._max_held[host.health]:
            return False
        host.held += 1
        return True

    @asynccontextmanager
    async def slot(self, host: Host) -> AsyncIterator[None]:
        """Waits for a slot for one attempt. Needs a reserved place. Raises HostFailing."""
        is_probe = host.health is Health.FAILING
        try:
            async with host.turns:
                _check(host, is_probe)
                async with self._pools[host.health]:
                    _check(host, is_probe)
                    yield
        finally:
            host.held -= 1

    def note(self, host: Host, succeeded: bool, took_s: float) -> None:
        """Notes how an attempt went."""
        if not succeeded and took_s > self._limits.slow_s:
            host.health = Health.FAILING
            return
        host.health = Health.HEALTHY
        if not host.has_responded:
            host.has_responded = True
            for _ in range(self._limits.in_progress - 1):
                host.turns.release()

    def _forget_idle(self) -> None:
        """Forgets hosts that were not used for the longest time."""
        excess = max(0, len(self._hosts) - self._limits.hosts)
        for name in list(islice(self._hosts, excess)):
            host = self._hosts.pop(name)
            if host.held:
                self._hosts[name] = host


def _check(host: Host, is_probe: bool) -> None:
    """Refuses callbacks of a failing host, except for one that probes it."""
    if host.health is Health.FAILING and not is_probe:
        raise HostFailing
