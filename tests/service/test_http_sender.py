"""A sender with the HTTP provider against the mock: the ledger agrees with the mock's own record."""

import asyncio
from collections import Counter
from pathlib import Path

import numpy as np

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.ledger.values import Snapshot
from common.messages import Batch, Lane, Message, Outcome
from sender.copies import RetryPolicy
from sender.providers.http import HttpProvider
from sender.providers.profiles import load_profile
from sender.providers.single import BulkAdapter
from sender.service import Sender
from simulation.accepted import Record
from simulation.fates import Fates
from simulation.mock_provider import MockProvider
from simulation.provider import serving
from tests.waiting import eventually

RUN = "over-http"
COUNT = 400
SEED = 5
MAX_ATTEMPTS = 3


async def all_sent(port: int, timeout_s: float) -> Snapshot:
    """The end of a run of bulk and urgent messages that a sender posts to a mock."""
    broker, ledger = MemoryBroker(), MemoryLedger()
    provider = BulkAdapter(HttpProvider(f"http://127.0.0.1:{port}/sms", timeout_s))
    policy = RetryPolicy(MAX_ATTEMPTS, backoff_s=0.01)
    sender, stop = Sender("s", broker, ledger, provider, slots=100, policy=policy), asyncio.Event()
    await ledger.announce(RUN, 0, COUNT)
    for first in range(0, COUNT, 10):
        messages = [Message(seq, "+358401234567", "Water is rising") for seq in range(first, first + 10)]
        await broker.publish(
            Batch(run=RUN, messages=messages), Lane.URGENT if first % 100 == 0 else Lane.BULK
        )
    running = asyncio.create_task(sender.run(stop))

    async def settled() -> bool:
        return (await ledger.snapshot(RUN)).settled == COUNT

    await eventually(settled, 60)
    stop.set()
    await running
    await broker.close()
    return await ledger.snapshot(RUN)


async def test_totals_are_exact_and_agree_with_the_record(tmp_path: Path) -> None:
    """A flaky provider, three attempts: sent, failed and retried are those of its profile, message by message.

    And the ids that the mock accepted are those sent, each accepted once.
    """
    profile, record = load_profile("flaky"), tmp_path / "record"
    attempts = [
        profile.play(SEED, np.arange(COUNT), attempt, 0).outcomes for attempt in range(1, MAX_ATTEMPTS + 1)
    ]
    expected_sent, retried = [], 0
    for seq, outcomes in enumerate(zip(*attempts, strict=True)):
        final = next((outcome for outcome in outcomes if outcome != Outcome.RETRY), Outcome.FAILED)
        if final == Outcome.SENT:
            expected_sent.append(f"{RUN}.{seq}")
        retried += sum(
            1 for k in range(1, MAX_ATTEMPTS) if all(outcome == Outcome.RETRY for outcome in outcomes[:k])
        )
    mock = MockProvider(Fates(profile, SEED), Record(record))
    async with serving(mock) as port:
        end = await all_sent(port, timeout_s=60)
    accepted = Counter(line.split()[0] for line in record.read_text().splitlines())
    assert (end.published, end.sent, end.failed) == (COUNT, len(expected_sent), COUNT - len(expected_sent))
    assert (end.retried, end.ambiguous) == (retried, 0)
    assert sorted(accepted) == sorted(expected_sent)
    assert set(accepted.values()) == {1}
    assert mock.stats.requests == COUNT + retried
    assert (mock.stats.accepted, mock.stats.distinct) == (end.sent, end.sent)


async def test_timeouts_are_ambiguous_and_bound_what_was_sent_twice(tmp_path: Path) -> None:
    """Some sends take longer than the timeout: the run ends, and `ambiguous` covers every repeated send."""
    profile, record = load_profile("flaky"), tmp_path / "record"
    times_us = profile.play(SEED, np.arange(COUNT), 1, 0).times_us
    timeout_s = float(np.quantile(times_us, 0.9)) / 1e6
    async with serving(MockProvider(Fates(profile, SEED), Record(record))) as port:
        end = await all_sent(port, timeout_s)
    accepted = Counter(line.split()[0] for line in record.read_text().splitlines())
    twice = sum(accepted.values()) - len(accepted)
    assert end.sent + end.failed == end.published == COUNT
    assert 0 < twice <= end.ambiguous
    # What was accepted after its last attempt timed out is failed for the ledger: that too is ambiguous.
    assert end.sent <= len(accepted) <= end.sent + end.ambiguous
