"""The tracker's promises (common/tracking/port.py), held by the one in memory and by the one in Redis."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from common.messages import Lane, Message
from common.redis import connect_redis
from common.settings import load_settings
from common.tracking.memory import MemoryTracker
from common.tracking.port import Record, Status, Step, Track, Tracker
from common.tracking.redis import RedisTracker
from tests.kept import keep_records, keep_texts
from tests.servers import RedisServer
from tests.waiting import eventually

RUN = "tracked"
NUMBER, TEXT = "+999123456789", 'Kaunis päivä 🌞 "quoted"'
MOST_WAITING = 10

Make = Callable[..., Awaitable[Tracker]]


ACCEPTED_US = 1_700_000_000_000_000


def accepted(record: Record) -> Track:
    """What is known of a message of which nothing was told yet."""
    return Track(record=record, steps=[record.accepted])


def record(seq: int, text: str = TEXT, **more: Any) -> Record:
    return Record(run=RUN, message=Message(seq, NUMBER, text), accepted_us=ACCEPTED_US, **more)


def step(status: Status, attempt: int, at_us: int, time_us: int | None = None, seq: int = 0) -> Step:
    return Step(
        run=RUN,
        message=Message(seq, NUMBER, TEXT),
        status=status,
        attempt=attempt,
        at_us=ACCEPTED_US + at_us,
        time_us=time_us,
    )


STORY = [
    step(Status.QUEUED, 0, 0),
    step(Status.SENDING, 1, 100_001),
    step(Status.QUEUED, 1, 1_000_000, 900_000),
    step(Status.SENDING, 2, 2_000_000),
    step(Status.SENT, 2, 2_123_457, 123_457),
]
MARK = step(Status.FAILED, 1, 0, seq=10**9)


def texts(first: int, beyond: int) -> list[Message]:
    return [Message(seq, f"+9991{seq:08}", f"text {seq}") for seq in range(first, beyond)]


class Ear:
    """What a listener has heard since the block began, at the beginning of which it listens already."""

    def __init__(self) -> None:
        self.heard: list[Step] = []

    @property
    def steps(self) -> list[Step]:
        return [step for step in self.heard if step != MARK]


@asynccontextmanager
async def ear(tracker: Tracker) -> AsyncIterator[Ear]:
    ear = Ear()

    async def listen() -> None:
        async for steps in tracker.listen():
            ear.heard += steps

    def begun() -> bool:
        tracker.publish([MARK])
        return bool(ear.heard)

    task = asyncio.create_task(listen())
    try:
        await eventually(begun)
        yield ear
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def tracked(tracker: Tracker, seq: int, steps: int) -> Track:
    """The message's track, once it has so many steps."""

    async def enough() -> Track | None:
        track = await tracker.track(RUN, seq)
        return track if track is not None and len(track.steps) >= steps else None

    found: Track = await eventually(enough)
    return found


@pytest.fixture(params=["memory", "redis"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes trackers; those in Redis share one, which is empty at first."""
    async with AsyncExitStack() as stack:

        async def make(message_ttl_s: float = 3600, buffered_steps: int = 100_000) -> Tracker:
            tracker: Tracker
            if request.param == "memory":
                tracker = MemoryTracker(message_ttl_s, buffered_steps=buffered_steps)
            else:
                server: RedisServer = request.getfixturevalue("redis_server")
                client = await connect_redis(
                    load_settings(redis_host=server.host, redis_port=server.port), 10
                )
                stack.push_async_callback(client.aclose)
                tracker = RedisTracker(client, buffered_steps)
            stack.push_async_callback(tracker.close)
            return tracker

        if request.param == "redis":
            request.getfixturevalue("redis_server").flush()
        yield make


@pytest.fixture
async def tracker(make: Make) -> Tracker:
    return await make()


async def test_a_record_is_kept_as_it_was_opened(tracker: Tracker) -> None:
    """All of its fields, and before any step is told."""
    records = [record(0, lane=Lane.URGENT, callback_url="https://example.com/a"), record(7, text="")]
    await keep_records(tracker, records)
    assert await tracker.track(RUN, 0) == accepted(records[0])
    assert await tracker.track(RUN, 7) == accepted(records[1])
    assert await tracker.track(RUN, 1) is None
    assert await tracker.track("another", 0) is None


async def test_more_records_than_go_in_one_call_are_all_kept(tracker: Tracker) -> None:
    """As a batch of the API has them."""
    await keep_records(tracker, [record(seq) for seq in range(1_203)])
    for seq in (0, 499, 500, 1_202):
        assert await tracker.track(RUN, seq) == accepted(record(seq))


async def test_records_are_found_many_at_a_time(tracker: Tracker) -> None:
    """In the order that they are asked for, more than go in one call, with gaps; kept texts are no records."""
    await keep_records(tracker, [record(seq) for seq in range(0, 1_600, 2)])
    await keep_texts(tracker, RUN, texts(1_600, 1_610))
    tracker.publish(STORY)
    await tracked(tracker, 0, len(STORY))
    asked = [*range(1_609, -1, -1), 4, 3]
    expected = [record(seq) if seq < 1_600 and seq % 2 == 0 else None for seq in asked]
    assert await tracker.records(RUN, asked) == expected
    assert await tracker.records("another", [0]) == [None]
    assert await tracker.records(RUN, []) == []


async def test_steps_are_kept_oldest_first_whatever_came_first(tracker: Tracker) -> None:
    """Services tell steps of one message apart, so that a later one may arrive before an earlier one."""
    await keep_records(tracker, [record(0)])
    tracker.publish(STORY[3:])
    tracker.publish(STORY[:3])
    assert await tracked(tracker, 0, 5) == Track(record=record(0), steps=STORY)


async def test_steps_of_a_message_never_opened_are_told_and_kept_nowhere(tracker: Tracker) -> None:
    """Opening it later begins with its acceptance."""
    async with ear(tracker) as listener:
        tracker.publish(STORY)
        await eventually(lambda: listener.steps == STORY)
    assert await tracker.track(RUN, 0) is None
    await keep_records(tracker, [record(0)])
    assert await tracker.track(RUN, 0) == accepted(record(0))


async def test_texts_of_many_chunks_are_found(tracker: Tracker) -> None:
    """In any order, in parts of chunks, and more than go in one call."""
    first, beyond = 3_990, 13_990  # a chunk begins at 4,000
    await keep_texts(tracker, RUN, texts(first, beyond))
    seqs = [beyond, beyond - 1, first, 4_000, first - 1, first]
    kept = {message.seq: message for message in texts(first, beyond)}
    assert await tracker.messages(RUN, seqs) == [kept.get(seq) for seq in seqs]
    assert await tracker.messages(RUN, range(first, beyond)) == texts(first, beyond)
    assert await tracker.messages("another", [first]) == [None]
    assert await tracker.messages(RUN, []) == []


async def test_opened_and_kept_messages_are_found_alike(tracker: Tracker) -> None:
    """In the order that they are asked for."""
    await keep_records(tracker, [record(2)])
    await keep_texts(tracker, RUN, texts(0, 2))
    opened = Message(2, NUMBER, TEXT)
    assert await tracker.messages(RUN, [2, 1, 0, 3]) == [opened, *reversed(texts(0, 2)), None]


async def test_every_listener_hears_every_step(make: Make, tracker: Tracker) -> None:
    """Two in one process, and one in another where there can be one; each hears them in the order of the telling."""
    elsewhere = await make() if isinstance(tracker, RedisTracker) else tracker
    async with ear(tracker) as one, ear(tracker) as two, ear(elsewhere) as three:
        tracker.publish(STORY[:3])
        tracker.publish([])
        tracker.publish(STORY[3:])
        await eventually(lambda: one.steps == two.steps == three.steps == STORY)


async def test_a_listener_hears_nothing_from_before_and_nothing_once_it_is_gone(tracker: Tracker) -> None:
    """The others go on."""
    tracker.publish(STORY[:1])
    async with ear(tracker) as one:
        async with ear(tracker) as two:
            tracker.publish(STORY[1:2])
            await eventually(lambda: one.steps[-1:] == two.steps[-1:] == STORY[1:2])
        tracker.publish(STORY[2:])
        await eventually(lambda: one.steps[-3:] == STORY[2:])
        assert two.steps[-1:] == STORY[1:2]
    listeners: Any = tracker
    assert not listeners._listeners._buffers


async def test_a_listener_that_takes_too_long_misses_the_oldest_and_logs_how_many(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Its neighbour, which takes what comes, misses nothing."""
    tracker = await make(buffered_steps=MOST_WAITING)
    many = [step(Status.SENT, 1, n, n, seq=n) for n in range(3 * MOST_WAITING)]
    slow = tracker.listen()
    first = asyncio.ensure_future(anext(slow))
    async with ear(tracker) as quick:
        await first
        for n in range(len(many)):
            tracker.publish(many[n : n + 1])
            await eventually(partial(lambda told: len(quick.steps) == told, n + 1))
        assert quick.steps == many
        with caplog.at_level(logging.WARNING):
            assert await anext(slow) == many[-MOST_WAITING:]
    missed = [entry.__dict__["steps"] for entry in caplog.records if entry.message == "steps_missed"]
    assert len(missed) == 1
    assert missed[0] >= 2 * MOST_WAITING  # and a mark or two that the ear began with


async def test_messages_are_forgotten_in_time_and_a_late_step_wakes_none(make: Make) -> None:
    """What was opened, and what was kept."""
    tracker = await make(message_ttl_s=1)
    await keep_records(tracker, [record(0)], ttl_s=1)
    await keep_texts(tracker, RUN, texts(1, 3), ttl_s=1)
    tracker.publish(STORY[:2])

    async def forgotten() -> bool:
        return await tracker.track(RUN, 0) is None and await tracker.messages(RUN, [0, 1, 2]) == [None] * 3

    await eventually(forgotten)
    async with ear(tracker) as listener:
        tracker.publish(STORY[2:])
        await eventually(lambda: listener.steps == STORY[2:])
    assert await forgotten()


async def test_closing_tells_what_waits(make: Make, tracker: Tracker) -> None:
    """A step that was told a moment before the end is kept, and heard."""
    elsewhere = await make() if isinstance(tracker, RedisTracker) else tracker
    await keep_records(tracker, [record(0)])
    async with ear(elsewhere) as listener:
        tracker.publish(STORY)
        await tracker.close()
        assert await elsewhere.track(RUN, 0) == Track(record=record(0), steps=STORY)
        await eventually(lambda: listener.steps == STORY)


async def test_in_memory_the_oldest_records_make_room() -> None:
    """For those beyond the limit; their steps go with them."""
    tracker = MemoryTracker(most_record_bytes=3 * 1_200)
    for seq in range(5):
        await keep_records(tracker, [record(seq)])
        tracker.publish([step(Status.QUEUED, 0, 0, seq=seq)])
    await keep_records(tracker, [record(5)])
    known = [await tracker.track(RUN, seq) is not None for seq in range(6)]
    assert known == [False, False, False, True, True, True]


async def test_in_memory_long_texts_leave_room_for_fewer() -> None:
    """The bound is in bytes; a step shares the text of its record."""
    tracker = MemoryTracker(most_record_bytes=50_000)
    for seq in range(100):
        await keep_records(tracker, [record(seq, text="🌞" * 1_600)])
        tracker.publish([step(Status.SENT, 1, 0, seq=seq)])
    known = [await tracker.track(RUN, seq) for seq in range(100)]
    assert [track is not None for track in known] == [False] * 94 + [True] * 6
    assert all(one.message is track.record.message for track in known if track for one in track.steps[1:])


async def test_in_memory_the_oldest_texts_make_room() -> None:
    """However many come, they take no more than was allowed."""
    tracker = MemoryTracker(most_text_bytes=50_000)
    for first in range(0, 100_000, 500):
        await keep_texts(tracker, RUN, texts(first, first + 500))
    assert tracker._chunks._size <= 50_000
    assert sum(len(pieces) for pieces, _ in tracker._chunks._values.values()) == tracker._chunks._size
    assert await tracker.messages(RUN, [0, 99_999]) == [None, *texts(99_999, 100_000)]
