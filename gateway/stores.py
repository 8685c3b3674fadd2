"""The stores of a gateway, in Redis or in memory: built in one place."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.settings import Settings
from common.stores import DAY_S, HOUR_S, RedisStores
from common.tracking.memory import MemoryTracker
from common.tracking.port import Tracker
from common.web.keys.memory import MemoryApiKeys
from common.web.keys.port import ApiKeys
from gateway.acceptance.memory import MemoryAcceptances
from gateway.acceptance.port import Acceptances, Bounds
from gateway.acceptance.redis import Keeping, RedisAcceptances
from gateway.callbacks.limits import Retention
from gateway.callbacks.memory import MemoryCallbacks
from gateway.callbacks.port import Callbacks
from gateway.callbacks.redis import RedisCallbacks


@dataclass(frozen=True)
class GatewayStores:
    """The stores of a gateway.

    Attributes:
        ledger: Runs, the states of their messages and the counters.
        tracker: Steps and texts of single messages.
        api_keys: The keys of callers.
        callbacks: The registered callbacks.
        acceptances: Accepted messages, until they are published.
        is_locked_out: Whether only a restart with another login gets them back.
    """

    ledger: Ledger
    tracker: Tracker
    api_keys: ApiKeys
    callbacks: Callbacks
    acceptances: Acceptances
    is_locked_out: Callable[[], bool] = lambda: False


def gateway_name() -> str:
    """The name of this process in the ledger."""
    return f"gateway-{socket.gethostname()}-{os.getpid()}"


def redis_gateway_stores(shared: RedisStores, settings: Settings) -> GatewayStores:
    """The stores in Redis, which all gateways share."""
    message_ttl_s = settings.message_ttl * HOUR_S
    keeping = Keeping(
        message_ttl_s=message_ttl_s,
        run_ttl_s=settings.run_ttl * DAY_S,
        bounds=Bounds(messages=settings.gateway_backlog),
        kept_bytes=settings.message_bytes,
        memory_share=settings.gateway_backlog_memory,
    )
    return GatewayStores(
        ledger=shared.ledger,
        tracker=shared.tracker,
        api_keys=shared.api_keys,
        callbacks=RedisCallbacks(shared.client, keeping.callbacks),
        acceptances=RedisAcceptances(
            shared.client, shared.tracker, queue=settings.queue_name, holder=gateway_name(), keeping=keeping
        ),
        is_locked_out=lambda: shared.client.is_locked_out,
    )


def memory_gateway_stores(
    settings: Settings,
    *,
    ledger: MemoryLedger | None = None,
    tracker: MemoryTracker | None = None,
    callbacks: MemoryCallbacks | None = None,
    api_keys: ApiKeys | None = None,
) -> GatewayStores:
    """The stores in memory, of one process; each may be the caller's own."""
    message_ttl_s = settings.message_ttl * HOUR_S
    ledger = ledger or MemoryLedger()
    tracker = tracker or MemoryTracker(message_ttl_s)
    callbacks = callbacks or MemoryCallbacks(Retention(message_s=message_ttl_s))
    acceptances = MemoryAcceptances(
        ledger,
        tracker,
        callbacks,
        queue=settings.queue_name,
        holder=gateway_name(),
        bounds=Bounds(messages=settings.gateway_backlog),
    )
    return GatewayStores(
        ledger=ledger,
        tracker=tracker,
        api_keys=api_keys or MemoryApiKeys(),
        callbacks=callbacks,
        acceptances=acceptances,
    )
