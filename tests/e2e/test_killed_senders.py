"""Senders that end in the middle of their work, by force or gracefully."""

from signal import SIGKILL, SIGTERM

import pytest

from tests.e2e.pipeline import Pipeline
from tests.waiting import eventually


@pytest.mark.parametrize("batch_size", [1, pytest.param(50, marks=pytest.mark.slow)])
async def test_one_of_three_senders_is_killed(pipeline: Pipeline, batch_size: int) -> None:
    """SIGKILL with sends in flight: the others take over, and 20,000 messages are accounted for, each once."""
    pipeline.use(MEAN_PROCESSING_TIME=0.5, SENDER_CONCURRENCY=1500, BATCH_SIZE=batch_size)
    # A few of its sends end every second, and most are in flight whenever it is killed.
    slow = {"MEAN_PROCESSING_TIME": 600, "PROCESSING_TIME_DISTRIBUTION": "exponential"}
    victim = pipeline.sender("--name", "victim", **slow)
    others = [pipeline.sender("--name", name) for name in ("second", "third")]
    await pipeline.published("--num-messages", 20_000, "--run", "killed")

    await pipeline.progress("killed", 5_000)
    await eventually(lambda: pipeline.shares().get("victim", 0) > 0)
    victim.signal(SIGKILL)

    assert (await pipeline.ledger.snapshot("killed")).settled < 20_000
    now = await pipeline.assert_exact("killed", 20_000, others)
    # At most what was in flight, and what had ended since the last settle, whose slots were in use again.
    assert now.ambiguous <= 2 * 1500
    assert sum(pipeline.shares().values()) == 20_000


@pytest.mark.parametrize("batch_size", [1, 120])
async def test_a_sender_that_is_told_to_stop_finishes_its_sends(pipeline: Pipeline, batch_size: int) -> None:
    """SIGTERM: exit 0, what was in flight is settled, what was not begun goes to the other; nothing is ambiguous."""
    pipeline.use(MEAN_PROCESSING_TIME=1, BATCH_SIZE=batch_size)
    first = pipeline.sender("--name", "first", SENDER_CONCURRENCY=50)
    await pipeline.published("--num-messages", 600, "--run", "graceful")
    await eventually(lambda: pipeline.hash("sms:stats").get("sending") == 50)

    first.signal(SIGTERM)
    assert await first.ended() == 0, first.stderr

    assert first.logged("sender_stopped")
    assert not first.logged("grace_over")
    between = await pipeline.ledger.snapshot("graceful")
    assert between.sending == 0
    assert between.settled >= 50
    assert between.queued == 600 - between.settled
    assert pipeline.shares() == {"first": between.settled}

    second = pipeline.sender("--name", "second", SENDER_CONCURRENCY=600)
    now = await pipeline.assert_exact("graceful", 600, [second])
    assert now.ambiguous == 0
    assert pipeline.shares()["second"] == 600 - between.settled


async def test_a_grace_that_is_too_short(pipeline: Pipeline) -> None:
    """Sends that outlast SHUTDOWN_GRACE come again to another sender and count as ambiguous; the totals are exact."""
    pipeline.use(MEAN_PROCESSING_TIME=60, PROCESSING_TIME_STDDEV=0, FAILURE_RATE=0)
    first = pipeline.sender("--name", "first", SENDER_CONCURRENCY=20, SHUTDOWN_GRACE=0.3)
    await pipeline.published("--num-messages", 100, "--run", "short", "--batch-size", 10)
    await eventually(lambda: pipeline.hash("sms:stats").get("sending") == 20)

    first.signal(SIGTERM)
    assert await first.ended() == 0, first.stderr
    assert first.logged("grace_over")

    second = pipeline.sender("--name", "second", MEAN_PROCESSING_TIME=0.01)
    now = await pipeline.assert_exact("short", 100, [second])
    assert now.ambiguous == 20
