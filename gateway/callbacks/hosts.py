"""Limits attempts per host, so that slow or dead hosts do not starve others.

A host's last attempt decides its health. Hosts of each health share a pool of slots: a healthy host never waits for a
failing one, and a new host waits for other new ones only. Within a pool, hosts take turns.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice


class Health(Enum):
    """How a host's last attempt went."""

    NEW = "new"  # there was none
    HEALTHY = "healthy"  # it succeeded, or failed promptly, which costs nothing
    FAILING = "failing"  # it was slow and failed


_SLOTS = {Health.NEW: 320, Health.HEALTHY: 320, Health.FAILING: 32}
_HELD = {Health.NEW: 32, Health.HEALTHY: 1_024, Health.FAILING: 1}


@dataclass(frozen=True, kw_only=True)
class HostLimits:
    """The limits of receiving hosts.

    Attributes:
        slots: Most attempts in progress to all hosts of a health.
        held: Most callbacks of one host that wait in this process; the others wait in the store.
        in_progress: Most attempts in progress to one healthy host.
        slow_s: A failed attempt that took longer makes its host a failing one.
        hosts: Most hosts whose health is remembered.
    """

    slots: Mapping[Health, int] = field(default_factory=lambda: _SLOTS)
    held: Mapping[Health, int] = field(default_factory=lambda: _HELD)
    in_progress: int = 8
    slow_s: float = 1.0
    hosts: int = 20_000


class HostFailing(Exception):
    """The host began to fail while a callback waited for it."""


class Host:
    """A host.

    Attributes:
        held: Callbacks that wait for it or are being posted to it.
        turns: Limits its attempts in progress: to one until it responds for the first time.
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
        self._pools = {health: asyncio.Semaphore(slots) for health, slots in limits.slots.items()}
        self._hosts: dict[str, Host] = {}

    def host(self, name: str) -> Host:
        """Returns a host."""
        host = self._hosts.pop(name, None) or Host()
        self._hosts[name] = host
        self._forget_idle()
        return host

    def reserve(self, host: Host) -> bool:
        """Reserves a place in the host's queue, which `slot` frees. Returns False if the queue is full."""
        if host.held >= self._limits.held[host.health]:
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
        excess = max(0, len(self._hosts) - self._limits.hosts)
        for name in list(islice(self._hosts, excess)):
            host = self._hosts.pop(name)
            if host.held:
                self._hosts[name] = host


def _check(host: Host, is_probe: bool) -> None:
    """Refuses callbacks of a failing host, except for one that probes it."""
    if host.health is Health.FAILING and not is_probe:
        raise HostFailing
