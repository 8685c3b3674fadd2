"""The stores of accepted messages that the contract suites run against, on a clock that the test moves."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from redis.commands.core import AsyncScript

from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.ledger.redis import RedisLedger
from common.redis import Client
from common.tracking.memory import MemoryTracker
from common.tracking.port import Tracker
from common.tracking.redis import RedisTracker
from gateway.acceptance.memory import MemoryAcceptances
from gateway.acceptance.port import Acceptances, Bounds
from gateway.acceptance.redis import Keeping, RedisAcceptances, script_texts
from gateway.callbacks.limits import Retention
from gateway.callbacks.memory import MemoryCallbacks
from gateway.callbacks.port import Callbacks
from gateway.callbacks.redis import RedisCallbacks
from gateway.callbacks.redis import script_texts as callback_scripts

LEASE_S = 10.0
MESSAGE_TTL_S = 3_600.0
QUEUE = "sms_queue"
STAGED_FROM = 3


@dataclass
class AcceptanceBench:
    """A store under test, its neighbours, and a way to move its clock."""

    acceptances: Acceptances
    ledger: Ledger
    tracker: Tracker
    callbacks: Callbacks
    leap: Callable[[float], Coroutine[Any, Any, None]]


def memory_acceptances(bounds: Bounds) -> AcceptanceBench:
    """In memory."""
    now_s = 1_000_000.0

    async def leap(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    ledger, tracker = MemoryLedger(), MemoryTracker()
    callbacks = MemoryCallbacks(Retention(message_s=MESSAGE_TTL_S), clock=lambda: now_s)
    acceptances = MemoryAcceptances(
        ledger, tracker, callbacks, bounds=bounds, lease_s=LEASE_S, clock=lambda: now_s
    )
    return AcceptanceBench(acceptances, ledger, tracker, callbacks, leap)


def on_test_clock(client: Client, texts: Mapping[str, str]) -> dict[str, AsyncScript]:
    """The scripts with the clock of the test, and nothing else changed."""
    clock = "redis.call('MGET', 'test:clock_s', 'test:clock_us')"
    assert all(text.count("redis.call('TIME')") == 1 for text in texts.values())
    return {
        name: client.register_script(text.replace("redis.call('TIME')", clock))
        for name, text in texts.items()
    }


async def redis_acceptances(client: Client, bounds: Bounds, **keeps: Any) -> AcceptanceBench:
    """On an empty Redis; its scripts have their clock from a key, and nothing else is changed in them."""
    tracker = RedisTracker(client)
    keeps = {"lease_s": LEASE_S, "message_ttl_s": MESSAGE_TTL_S, "staged_from": STAGED_FROM, **keeps}
    keeping = Keeping(bounds=bounds, **keeps)
    acceptances = RedisAcceptances(client, tracker, QUEUE, "gateway", keeping)
    callbacks = RedisCallbacks(client, keeping.callbacks)
    acceptances._scripts = on_test_clock(client, script_texts(client.names))
    callbacks._scripts = on_test_clock(client, callback_scripts())
    now_us = 1_000_000_000_000

    async def leap(seconds: float) -> None:
        nonlocal now_us
        now_us += round(seconds * 1e6)
        await client.mset({"test:clock_s": now_us // 1_000_000, "test:clock_us": now_us % 1_000_000})

    await leap(0)
    return AcceptanceBench(acceptances, RedisLedger(client, 3600), tracker, callbacks, leap)
