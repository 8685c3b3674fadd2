"""common/broker/confirm.py: a publish is repeated until the broker has confirmed it, and no longer."""

import asyncio
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.broker.confirm import publish_in_parts, publish_until_confirmed
from common.errors import PublishFailed, Refused, TooLarge
from common.messages import Batch, Message, encode_batch


class FakeBroker:
    """Fails as many publishes of each name as it is told to; notes each attempt."""

    def __init__(self, failures: dict[str, int] | None = None) -> None:
        self.failures = failures or {}
        self.attempts: list[str] = []
        self.ready_calls = 0
        self.may_be_ready = asyncio.Event()
        self.may_be_ready.set()

    async def ready(self) -> None:
        self.ready_calls += 1
        await self.may_be_ready.wait()

    async def publish(self, name: str) -> None:
        self.attempts.append(name)
        if self.failures.get(name, 0):
            self.failures[name] -= 1
            raise PublishFailed("no confirm")


async def test_only_what_failed_is_repeated() -> None:
    """Of three publishes, the one that fails twice is tried three times, the others once."""
    broker = FakeBroker({"b": 2})
    publishes = [partial(broker.publish, name) for name in "abc"]

    await publish_until_confirmed(broker, *publishes, pause_s=0)

    assert sorted(broker.attempts) == ["a", "b", "b", "b", "c"]
    assert broker.ready_calls == 3


async def test_nothing_is_published_before_the_broker_is_ready() -> None:
    """While the connection is lost no attempt is made."""
    broker = FakeBroker()
    broker.may_be_ready.clear()
    publishing = asyncio.create_task(publish_until_confirmed(broker, partial(broker.publish, "a")))
    await asyncio.sleep(0)
    assert broker.ready_calls == 1
    assert broker.attempts == []

    broker.may_be_ready.set()
    await publishing

    assert broker.attempts == ["a"]


async def test_another_error_is_raised_once_the_others_have_ended() -> None:
    """A refusal is not repeated, and no publish is left running."""
    broker, ended = FakeBroker(), asyncio.Event()

    async def refused() -> None:
        raise Refused("no such user")

    async def slow() -> None:
        await asyncio.sleep(0)
        ended.set()

    with pytest.raises(Refused):
        await publish_until_confirmed(broker, refused, slow)
    assert ended.is_set()


async def test_cancelling_gives_up() -> None:
    """A deadline ends it, even where every publish fails."""
    broker = FakeBroker({"a": 1_000_000})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await publish_until_confirmed(broker, partial(broker.publish, "a"), pause_s=0)
    assert broker.attempts


async def test_no_publishes_are_confirmed_at_once() -> None:
    """The broker is not asked."""
    broker = FakeBroker()
    await publish_until_confirmed(broker)
    assert broker.ready_calls == 0


@given(st.lists(st.integers(0, 400), min_size=1, max_size=40), st.integers(100, 2_000))
async def test_whatever_the_size_limit_each_message_is_published_once_or_refused(
    lengths: list[int], most_bytes: int
) -> None:
    """In bodies within the limit; only what is over it by itself is refused."""
    messages = [Message(seq, "+999123456789", "x" * length) for seq, length in enumerate(lengths)]
    published: list[Message] = []

    async def publish(batch: Batch) -> None:
        if len(encode_batch(batch)) > most_bytes:
            raise TooLarge("too large", most_bytes)
        published.extend(batch.messages)

    refused = await publish_in_parts(publish, Batch(run="r", messages=messages))
    assert sorted(published + refused, key=lambda message: message.seq) == messages
    for message in refused:
        assert len(encode_batch(Batch(run="r", messages=[message]))) > most_bytes
