"""A sender keeps its slots filled, with unequal send times and with retries. In virtual time.

The whole embedded pipeline runs on a clock that jumps to the next timer, so that the machine's speed does not matter.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.messages import Batch, Lane, Message
from common.rate.memory import MemoryRateLimit
from common.settings import Distribution
from sender.copies import RetryPolicy
from sender.providers.profiles import Profile
from sender.providers.simulated import SimulatedProvider
from sender.service import Sender
from tests.model.world import VirtualLoop

RUN = "filled-slots"
SLOTS, MESSAGES, BATCH = 1_000, 20_000, 16
LOOK_EVERY_S = 0.01

CASES = {
    "normal": ({"mean_s": 1.0}, 1),
    "exponential": ({"mean_s": 1.0, "distribution": Distribution.EXPONENTIAL}, 1),
    "wide": ({"mean_s": 0.5, "stddev_s": 1.0, "distribution": Distribution.LOGNORMAL}, 1),
    "retried": ({"mean_s": 1.0, "retry": 0.3}, 4),
    "wide and retried": (
        {"mean_s": 0.5, "stddev_s": 0.3, "distribution": Distribution.LOGNORMAL, "retry": 0.2},
        5,
    ),
}


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


@pytest.mark.parametrize("case", CASES)
def test_few_slots_are_idle_while_messages_wait(loop: VirtualLoop, case: str) -> None:
    """While messages are in the queue, at least 98 of 100 slots are in use.

    Gathering for the next claim costs about 1 of 100 by intention; the rest are ticks of the timer wheel.
    """
    conditions: Any = CASES[case][0]
    max_attempts = CASES[case][1]
    idle = loop.run(_idle_share(Profile(**conditions), max_attempts))
    assert idle < 0.02


async def _idle_share(profile: Profile, max_attempts: int) -> float:
    """The mean share of slots that a message in the queue could have had, while there were any in the queue."""
    broker, ledger, stop = MemoryBroker(), MemoryLedger(), asyncio.Event()
    await ledger.announce(RUN, 0, MESSAGES)
    for first in range(0, MESSAGES, BATCH):
        messages = [Message(seq, "+358401234567", "text") for seq in range(first, first + BATCH)]
        await broker.publish(Batch(run=RUN, messages=messages), Lane.BULK)
    provider = SimulatedProvider(profile, seed=3)
    sender = Sender("s", broker, ledger, provider, slots=SLOTS, policy=RetryPolicy(max_attempts))
    running = asyncio.create_task(sender.run(stop))
    idle: list[float] = []
    while (await ledger.snapshot(RUN)).settled < MESSAGES:
        await asyncio.sleep(LOOK_EVERY_S)
        if waiting := sum(held.messages for held in broker.queues[Lane.BULK].bodies):
            idle.append(min(waiting, sender.slots.free(Lane.BULK)) / SLOTS)
    stop.set()
    await running
    return sum(idle) / len(idle)


def test_a_slow_rate_limit_is_used_up_while_sends_take_long(loop: VirtualLoop) -> None:
    """A message waits for the limit while others are in flight, also if less than one is granted a second."""

    async def took_s() -> float:
        broker, ledger, stop = MemoryBroker(), MemoryLedger(), asyncio.Event()
        await ledger.announce(RUN, 0, 20)
        for seq in range(20):
            await broker.publish(Batch(run=RUN, messages=[Message(seq, "+358401234567", "")]), Lane.BULK)
        provider = SimulatedProvider(Profile(mean_s=20.0, stddev_s=0.0), seed=1)
        sender = Sender("s", broker, ledger, provider, slots=SLOTS, limit=MemoryRateLimit(0.4, loop.time))
        began_s = loop.time()
        running = asyncio.create_task(sender.run(stop))
        while (await ledger.snapshot(RUN)).settled < 20:
            await asyncio.sleep(1)
        stop.set()
        await running
        return loop.time() - began_s

    assert loop.run(took_s()) < 20 / 0.4 + 20 + 5
