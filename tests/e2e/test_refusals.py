"""RabbitMQ refuses a client that was connected: what passes is outlived, and what lasts ends in order."""

import secrets
from collections.abc import AsyncIterator

import pytest_asyncio

from tests.e2e.pipeline import Pipeline
from tests.waiting import eventually


@pytest_asyncio.fixture
async def user(pipeline: Pipeline) -> AsyncIterator[str]:
    """A user of its own for the launchers, whose password the test may change."""
    name = f"refused-{secrets.token_hex(4)}"
    pipeline.rabbit.ctl("add_user", name, "first")
    pipeline.rabbit.ctl("set_permissions", name, ".*", ".*", ".*")
    pipeline.use(RABBITMQ_USER=name, RABBITMQ_PASSWORD="first")
    yield name
    pipeline.rabbit.ctl("delete_user", name)


def shut_out(pipeline: Pipeline, user: str) -> None:
    pipeline.rabbit.ctl("change_password", user, "second")
    pipeline.rabbit.ctl("close_all_user_connections", user, "rotated")


async def test_a_sender_that_is_shut_out_loses_nothing_that_was_in_flight(
    pipeline: Pipeline, user: str
) -> None:
    """It takes no more, records the sends in flight, and ends with 1. Another sends the rest: nothing twice."""
    pipeline.use(MEAN_PROCESSING_TIME=3, PROCESSING_TIME_DISTRIBUTION="constant", FAILURE_RATE=0)
    sender = pipeline.sender(SENDER_CONCURRENCY=100)
    await pipeline.published("--num-messages", 300, "--run", "shut-out")
    await eventually(lambda: pipeline.hash("sms:stats").get("sending", 0) >= 100)
    shut_out(pipeline, user)
    assert await sender.ended() == 1
    assert "ACCESS_REFUSED" in sender.stderr.splitlines()[-1]
    assert "Traceback" not in sender.stderr
    pipeline.use(RABBITMQ_PASSWORD="second", MEAN_PROCESSING_TIME=0.1)
    await pipeline.assert_exact("shut-out", 300, [pipeline.sender()])
    assert (await pipeline.ledger.snapshot("shut-out")).ambiguous == 0


async def test_a_refusal_that_passes_is_outlived(pipeline: Pipeline, user: str) -> None:
    """Sender and producer go on with the run once the password is right again."""
    pipeline.use(MEAN_PROCESSING_TIME=0.1, FAILURE_RATE=0)
    sender = pipeline.sender()
    producer = pipeline.producer("--num-messages", 2_000, "--rate", 100, "--run", "outlived")
    await eventually(lambda: pipeline.hash("sms:run:outlived").get("sent", 0) > 50)
    shut_out(pipeline, user)
    await eventually(lambda: sender.logged("broker_refuses") and producer.logged("broker_refuses"))
    pipeline.rabbit.ctl("change_password", user, "first")
    assert await producer.ended() == 0, producer.stderr
    await pipeline.assert_exact("outlived", 2_000, [sender])
