"""Two stacks on one Redis: each with a STACK of its own, or told apart by REDIS_DB."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from common.stores import RedisStores, connect_stores, warn_of_another_queue
from common.tracking.port import Status
from tests.contract.test_tracking import ear, record, step
from tests.kept import keep_records
from tests.servers import RedisServer
from tests.waiting import eventually

Pair = tuple[RedisStores, RedisStores]


@pytest.fixture(params=[{"stack": "other"}, {"redis_db": 1}], ids=str)
async def pair(request: pytest.FixtureRequest, redis_server: RedisServer) -> AsyncIterator[Pair]:
    redis_server.flush()
    async with AsyncExitStack() as stores:
        settings = redis_server.settings
        both = [settings, settings.model_copy(update=request.param)]
        one, another = [await stores.enter_async_context(await connect_stores(each, 10)) for each in both]
        yield one, another
        await another.client.flushdb()


async def test_a_stack_counts_its_own_messages_only(pair: Pair) -> None:
    """The same run name in both is two runs."""
    for stores, count in zip(pair, (3, 5), strict=True):
        await stores.ledger.announce("run", 0, count)
    assert [(await stores.ledger.snapshot()).published for stores in pair] == [3, 5]
    assert [(await stores.ledger.snapshot("run")).published for stores in pair] == [3, 5]


async def test_a_stack_hears_its_own_steps_only(pair: Pair) -> None:
    """Pub/Sub knows no databases, and a step has a number and a text."""
    one, another = pair
    of_one, of_another = step(Status.SENDING, 1, 10), step(Status.SENT, 1, 20)
    async with ear(one.tracker) as by_one, ear(another.tracker) as by_another:
        one.tracker.publish([of_one])
        another.tracker.publish([of_another])
        await eventually(lambda: (by_one.steps, by_another.steps) == ([of_one], [of_another]))


async def test_no_key_is_in_both(redis_server: RedisServer) -> None:
    """Whatever a store writes begins with the prefix of its stack."""
    redis_server.flush()
    settings = redis_server.settings.model_copy(update={"stack": "a.stack", "provider_rate": 5.0})
    async with await connect_stores(settings, 10) as stores:
        await stores.ledger.begin("run", "{}", 1, "producer")
        await stores.ledger.announce("run", 0, 1)
        await stores.ledger.heartbeat("sender", 1, 0)
        await keep_records(stores.tracker, [record(0)])
        await warn_of_another_queue(stores.client, settings)
        keys: Any = await stores.client.keys("*")
    assert len(keys) > 5
    assert [key for key in keys if not key.startswith(b"a.stack:")] == []


async def test_another_queue_under_the_same_prefix_is_named(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The messages of both would count together."""
    redis_server.flush()
    settings = redis_server.settings
    async with await connect_stores(settings, 10) as stores:
        await warn_of_another_queue(stores.client, settings)
        await warn_of_another_queue(stores.client, settings)
        assert not caplog.records
        another = settings.model_copy(update={"queue_name": "another_queue"})
        await warn_of_another_queue(stores.client, another)
    (warning,) = caplog.records
    assert warning.message == "another_queue_in_this_stack"
    assert warning.__dict__["other"] == settings.queue_name


def test_the_queue_has_the_name_of_the_stack(redis_server: RedisServer) -> None:
    """Unless QUEUE_NAME is set."""
    settings = type(redis_server.settings)
    assert settings(_env_file=None).queue_name == "sms_queue"
    assert settings(_env_file=None, stack="north").queue_name == "north_queue"
    assert settings(_env_file=None, stack="north", queue_name="q").queue_name == "q"
