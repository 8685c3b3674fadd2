"""A sender dies between any two of its steps, and every message is still counted once.

The steps are those of docs/architecture.md: claim → send → settle → publish the copy of a retry → ack. A first sender
is stopped dead at its first step, then at its second, and so on; a second one finishes the run each time.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.broker.port import Broker, Delivery, Subscription
from common.ledger.memory import MemoryLedger
from common.ledger.port import Ledger
from common.ledger.values import Claim, Outcomes
from common.messages import Batch, Lane, Message, Seqs, State, decode_batch
from sender.copies import RetryPolicy
from sender.providers.bulk import Sends
from sender.providers.profiles import Profile
from sender.providers.simulated import SimulatedProvider
from sender.service import Sender
from sender.timing import Timing
from tests.contract.benches import redis_ledger
from tests.waiting import eventually

RUN = "steps"
BATCHES = [range(3), range(3, 4), range(4, 9)]
MESSAGES = 9


class Died(Exception):
    """The process is gone: nothing that it does after this has an effect."""


class Steps:
    """Counts the steps of a sender, and ends it at one of them."""

    def __init__(self, last: int | None = None) -> None:
        self._left = last
        self.taken: list[str] = []

    def step(self, name: str) -> None:
        if self._left == 0:
            raise Died
        if self._left is not None:
            self._left -= 1
        self.taken.append(name)
        if self._left == 0:
            raise Died


class SteppedLedger:
    """A ledger whose calls are steps: one before it is carried out, one after, when only the answer is lost."""

    def __init__(self, ledger: Ledger, steps: Steps) -> None:
        self._ledger, self._steps = ledger, steps

    async def claim(self, run: str, seqs: Seqs, redelivered: bool) -> Claim:
        self._steps.step("before claim")
        claim = await self._ledger.claim(run, seqs, redelivered)
        self._steps.step("after claim")
        return claim

    async def settle(self, run: str, outcomes: Outcomes, sender: str = "") -> None:
        self._steps.step("before settle")
        await self._ledger.settle(run, outcomes, sender)
        self._steps.step("after settle")

    async def heartbeat(self, sender: str, slots: int, in_flight: int) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


class SteppedDelivery:
    def __init__(self, delivery: Delivery, steps: Steps) -> None:
        self._delivery, self._steps = delivery, steps

    def ack(self) -> None:
        self._steps.step("before ack")
        self._delivery.ack()
        self._steps.step("after ack")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)


class SteppedSubscription:
    def __init__(self, subscription: Subscription, steps: Steps) -> None:
        self._subscription, self._steps = subscription, steps

    async def take(self) -> list[Any]:
        return [SteppedDelivery(delivery, self._steps) for delivery in await self._subscription.take()]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subscription, name)


class SteppedBroker:
    """A broker whose publishes and acks are steps."""

    def __init__(self, broker: Broker, steps: Steps) -> None:
        self._broker, self._steps = broker, steps

    async def subscribe(self, lane: Lane, prefetch: int) -> Any:
        return SteppedSubscription(await self._broker.subscribe(lane, prefetch), self._steps)

    async def publish(self, batch: Batch, lane: Lane, after: float = 0) -> None:
        self._steps.step("before publish")
        await self._broker.publish(batch, lane, after)
        self._steps.step("after publish")

    async def park(self, batch: Batch, lane: Lane) -> None:
        self._steps.step("before keep")
        await self._broker.park(batch, lane)
        self._steps.step("after keep")

    async def ready(self) -> None:
        await self._broker.ready()


class CountingProvider(SimulatedProvider):
    """Sends at once, fails some by a seed, and keeps an independent record of what was sent."""

    def __init__(self, record: Counter[int], steps: Steps) -> None:
        super().__init__(Profile(mean_s=0, retry=0.4), seed=3)
        self._record, self._steps = record, steps

    def start(self, sends: Sends) -> None:
        self._steps.step("before send")
        self._record.update(sends.seqs.tolist())
        super().start(sends)
        self._steps.step("after send")


MakeLedger = Callable[[], Awaitable[Ledger]]


@pytest.fixture(params=["memory", "redis"])
async def make_ledger(request: pytest.FixtureRequest) -> AsyncIterator[MakeLedger]:
    opened: list[Ledger] = []

    async def make() -> Ledger:
        if request.param == "memory":
            opened.append(MemoryLedger())
        else:
            opened.append(await redis_ledger(request.getfixturevalue("redis_server")))
        return opened[-1]

    yield make
    for ledger in opened:
        await ledger.close()


async def run_dying_at(
    last_step: int | None, ledger: Ledger, max_attempts: int, keep_failed: bool
) -> tuple[list[str], Counter[int], set[int]]:
    """A run whose first sender dies at a step; gives the steps it took, how often each message was sent, and which
    were kept as failed.
    """
    broker, record, steps = MemoryBroker(), Counter[int](), Steps(last_step)
    await ledger.begin(RUN, "", MESSAGES, "p")
    await ledger.announce(RUN, 0, MESSAGES)
    for seqs in BATCHES:
        messages = [Message(seq, "+999123456789", "text") for seq in seqs]
        await broker.publish(Batch(run=RUN, messages=messages), Lane.BULK)

    async def settled() -> bool:
        now = await ledger.snapshot(RUN)
        assert now.published == now.queued + now.sending + now.sent + now.failed == MESSAGES
        depths = await broker.depths()
        depths.pop("sms_queue.failed")
        return now.settled == MESSAGES and not any(depths.values())

    async def send(steps: Steps, stop: asyncio.Event) -> None:
        stepped_broker: Any = SteppedBroker(broker, steps)
        stepped_ledger: Any = SteppedLedger(ledger, steps)
        provider = CountingProvider(record, steps)
        policy = RetryPolicy(max_attempts, backoff_s=0.01, keep_failed=keep_failed)
        sender = Sender(
            "s",
            stepped_broker,
            stepped_ledger,
            provider,
            slots=4,
            policy=policy,
            grace_s=1,
            timing=Timing(merge_s=0.01),
        )
        await sender.run(stop)

    first = asyncio.create_task(send(steps, first_stop := asyncio.Event()))

    async def died_or_settled() -> bool:
        return first.done() or await settled()

    await eventually(died_or_settled)
    first_stop.set()
    try:
        await first
    except BaseExceptionGroup as group:
        if group.split(Died)[1] is not None:
            raise
    else:  # it was to live, or needed fewer steps this time: sends that end together settle together
        return steps.taken, record, kept(broker)
    broker.disconnect()
    second = asyncio.create_task(send(Steps(), second_stop := asyncio.Event()))
    await eventually(settled)
    second_stop.set()
    await second
    return steps.taken, record, kept(broker)


def kept(broker: MemoryBroker) -> set[int]:
    """The seqs in the failed queue."""
    return {m.seq for body, _ in broker.failed for m in decode_batch(body)[0].messages}


@pytest.mark.parametrize(
    ("max_attempts", "keep_failed"), [(1, False), pytest.param(2, False, marks=pytest.mark.slow), (2, True)]
)
@pytest.mark.timeout(300)
async def test_every_message_is_counted_once_wherever_a_sender_dies(
    make_ledger: MakeLedger, max_attempts: int, keep_failed: bool
) -> None:
    """Sent + failed = published, the states prove the counters, nothing is unsent, and ambiguous bounds the rest.

    With KEEP_FAILED, every failed message is in the failed queue, too.
    """
    steps, *_ = await run_dying_at(None, await make_ledger(), max_attempts, keep_failed)
    kinds = {"claim", "send", "settle", "ack"} | ({"publish"} if max_attempts > 1 else set())
    kinds |= {"keep"} if keep_failed else set()
    assert {step.split()[1] for step in steps} == kinds
    for last_step in range(1, len(steps) + 1):
        ledger = await make_ledger()
        taken, sends, failed = await run_dying_at(last_step, ledger, max_attempts, keep_failed)
        now = await ledger.snapshot(RUN)
        died = f"died at step {last_step}: {taken[-1]}"
        assert (now.published, now.sent + now.failed, now.sending) == (MESSAGES, MESSAGES, 0), died
        counted = {"published": MESSAGES, "sending": 0, "sent": now.sent, "failed": now.failed}
        assert await ledger.recount(RUN) == counted, died
        if keep_failed:
            states = await ledger.states(RUN, np.arange(MESSAGES))
            assert failed >= set(np.flatnonzero(states == State.FAILED).tolist()), died
        assert set(sends) == set(range(MESSAGES)), died
        assert sum(sends.values()) <= MESSAGES + now.retried + now.ambiguous, died
