"""What Redis alone can do to a tracker: go away, lose answers and connections; and what others find there."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from common.keys import Keys
from common.redis import connect_redis
from common.settings import load_settings
from common.tracking.port import Channel, Status, Step, Track
from common.tracking.redis import Limits, RedisTracker
from tests.contract.test_tracking import (
    ACCEPTED_US,
    NUMBER,
    RUN,
    STORY,
    TEXT,
    ear,
    record,
    step,
    texts,
    tracked,
)
from tests.kept import keep_records, keep_texts
from tests.servers import RedisServer
from tests.waiting import eventually

KEYS = Keys()


async def redis_tracker(server: RedisServer, buffered_steps: int = 10_000, **more: Any) -> RedisTracker:
    client = await connect_redis(load_settings(redis_host=server.host, redis_port=server.port), 10)
    return RedisTracker(client, buffered_steps, **more)


@pytest.fixture
async def tracker(redis_server: RedisServer) -> AsyncIterator[RedisTracker]:
    redis_server.flush()
    tracker = await redis_tracker(redis_server)
    yield tracker
    await tracker.close()
    await tracker._redis.aclose()


FAILED = step(Status.FAILED, 3, 2_500_000, 7)
# What makes a step into none, though it is JSON of the right kind.
ODD: list[dict[str, Any]] = [
    *({"uuid": uuid} for uuid in (f"{RUN}.x", f"{RUN}.+4", f"{RUN}.-1", f"{RUN}.٤", f"{RUN}.{2**40}", RUN)),
    {"uuid": f"{RUN}.{'9' * 5_000}"},
    *(
        {"at": at}
        for at in ("9999-12-31T23:59:59-10:00", "0001-01-01T00:00:00+14:00", "1969-12-31T23:59:59Z")
    ),
    *({"time_s": time_s} for time_s in (1e305, -1)),
    *({"attempt": attempt} for attempt in (10**30, -1)),
]


async def test_anybody_can_read_what_is_told(tracker: RedisTracker) -> None:
    """Each kind of step has its channel; the JSON is the documented one, and nothing of ours is needed to read it."""
    told = []
    async with tracker._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(*map(KEYS.channel, Channel))
        tracker.publish([*STORY, FAILED])
        async for message in pubsub.listen():
            told.append((message["channel"].decode(), json.loads(message["data"])))
            if len(told) == 6:
                break
    same = {"run": RUN, "uuid": f"{RUN}.0", "number": NUMBER, "text": TEXT}
    accepted = same | {"status": "queued", "attempt": 0, "at": "2023-11-14T22:13:20.000000Z"}
    sent = same | {"status": "sent", "attempt": 2, "at": "2023-11-14T22:13:22.123457Z", "time_s": 0.123457}
    assert [channel for channel, _ in told] == [
        *("sms:0:SMS", *["sms:0:SMS_SENDING"] * 3, "sms:0:SMS_OK", "sms:0:SMS_FAIL")
    ]
    assert told[0][1] == accepted
    assert told[4][1] == sent


async def test_others_may_tell_steps_and_nonsense_harms_nobody(
    tracker: RedisTracker, caplog: pytest.LogCaptureFixture
) -> None:
    """A step in another program's JSON is heard; what is no step is counted, and logged without a word of it."""
    told = {"run": RUN, "uuid": f"{RUN}.4", "status": "sent", "attempt": 1, "number": NUMBER, "text": TEXT}
    nonsense = [
        *(b"", b"\xff", b"[]", b"{}", json.dumps(told | {"at": "secret"}).encode()),
        json.dumps(told | {"at": "2023-11-14T22:13:20", "note": "no zone"}).encode(),
        json.dumps(told | {"at": "2023-11-14T22:13:20Z", "uuid": "another.4"}).encode(),
        *(json.dumps(told | {"at": "2023-11-14T22:13:20Z", **odd}).encode() for odd in ODD),
    ]
    async with ear(tracker) as listener:
        for data in nonsense:
            await tracker._redis.publish("sms:0:SMS_OK", data)
        await tracker._redis.publish("sms:0:SMS_OK", json.dumps(told | {"at": "2023-11-15T00:13:20.5+02:00"}))
        await eventually(lambda: listener.steps == [step(Status.SENT, 1, 500_000, seq=4)])
        (unreadable,) = [entry for entry in caplog.records if entry.message == "step_unreadable"]
        assert unreadable.__dict__["count"] == 1
        tracker._logs_again_s = 0
        caplog.clear()
        await tracker._redis.publish("sms:0:SMS_OK", "secret")
        await eventually(lambda: "step_unreadable" in caplog.text)
    (unreadable,) = caplog.records
    assert unreadable.__dict__["count"] == len(nonsense)
    assert "secret" not in str(unreadable.__dict__)


async def test_a_hearing_that_ended_by_an_error_begins_anew(
    tracker: RedisTracker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the error was: one that nobody thought of must not leave this process deaf."""

    def broken(_: bytes) -> Step:
        raise KeyError("secret")

    async with ear(tracker) as listener:
        with monkeypatch.context() as patched:
            patched.setattr("common.tracking.redis.decode_step", broken)
            tracker.publish(STORY[:1])
            await eventually(lambda: "steps_unheard" in caplog.text)

        def heard_again() -> bool:
            tracker.publish(STORY[1:2])
            return STORY[1] in listener.steps

        await eventually(heard_again)
    assert "secret" not in str([entry.__dict__ for entry in caplog.records])


async def test_who_listens_later_is_heard_for_though_the_hearing_has_ended(tracker: RedisTracker) -> None:
    """A task that is over hears nothing."""
    async with ear(tracker):
        assert tracker._listening is not None
        tracker._listening.cancel()
        await asyncio.gather(tracker._listening, return_exceptions=True)
    async with ear(tracker) as listener:
        tracker.publish(STORY)
        await eventually(lambda: listener.steps == STORY)


async def test_everything_expires_and_is_there_under_the_keys_documented(tracker: RedisTracker) -> None:
    """A list of JSON for a tracked message, a hash for the texts of a run; both for MESSAGE_TTL."""
    await keep_records(tracker, [record(0)])
    await keep_texts(tracker, RUN, texts(1, 2_001))
    tracker.publish([STORY[0], FAILED, step(Status.SENT, 1, 0, seq=1)])
    await tracked(tracker, 0, 2)
    assert sorted(await tracker._redis.keys("*")) == [b"sms:message:tracked.0", b"sms:texts:tracked"]
    for key in (KEYS.message(f"{RUN}.0"), KEYS.texts(RUN)):
        assert 3500 < await tracker._redis.ttl(key) <= 3600
    kept = [json.loads(data) for data in await tracker._redis.lrange(KEYS.message(f"{RUN}.0"), 0, -1)]
    assert kept == [[[0, NUMBER, TEXT], ACCEPTED_US, "bulk", None], ["failed", 3, FAILED.at_us, 7]]


async def test_texts_take_little_room(tracker: RedisTracker) -> None:
    """Numbers and short texts that differ take some 15 bytes a message."""
    await keep_texts(tracker, RUN, texts(0, 20_000))
    assert (await tracker._redis.memory_usage(KEYS.texts(RUN), samples=0) or 0) < 20_000 * 20


class LostAnswers:
    """A client whose first answer of each call is lost, with the connection."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.lost = False

    async def __call__(self, **given: Any) -> Any:
        answer = await self._call(**given)
        if not self.lost:
            self.lost = True
            raise ConnectionError("the connection broke")
        return answer


async def test_steps_whose_answer_was_lost_are_not_told_twice(
    tracker: RedisTracker, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody knows whether they were told; those that come after are."""
    await keep_records(tracker, [record(0)])
    async with ear(tracker) as listener:
        tracker._publish = LostAnswers(tracker._publish)  # type: ignore[assignment]
        tracker.publish(STORY[:2])
        await eventually(lambda: "steps_lost" in caplog.text)
        tracker.publish(STORY[2:])
        await eventually(lambda: listener.steps == STORY)
    assert await tracked(tracker, 0, 5) == Track(record=record(0), steps=STORY)


async def test_listening_outlives_cut_and_silent_connections(redis_server: RedisServer) -> None:
    """A connection that is cut is made again, and so is one on which a ping is not answered."""
    ping_s = 1.0
    tracker = await redis_tracker(redis_server, limits=Limits(ping_s=ping_s, silence_s=2 * ping_s))
    async with Redis(host=redis_server.host, port=redis_server.port) as other, ear(tracker) as listener:

        async def connection() -> list[str]:
            found: list[dict[str, str]] = await other.client_list(_type="pubsub")
            return [client["id"] for client in found]

        async def heard(one: Step) -> None:
            def again() -> bool:
                tracker.publish([one])
                return one in listener.steps

            await eventually(again)

        async def renewed(before: list[str]) -> list[str] | None:
            now = await connection()
            return now if now != before else None

        async def pings() -> int:
            return int((await other.info("commandstats"))["cmdstat_ping"]["calls"])

        begun = await pings()

        async def pinged() -> bool:
            return await pings() >= begun + 2

        await eventually(pinged)
        first = await connection()
        await other.client_kill_filter(_type="pubsub")
        await heard(STORY[0])
        second = await eventually(lambda: renewed(first))
        await other.client_pause(int(5000 * ping_s))
        await eventually(lambda: renewed(second))
        await heard(STORY[1])
    await tracker.close()
    await tracker._redis.aclose()


async def test_redis_dies_and_comes_back() -> None:
    """A call waits for it, a listener hears again what is told then, and steps told meanwhile are kept for it."""
    with RedisServer() as server:
        tracker = await redis_tracker(server)
        await keep_records(tracker, [record(0)])
        async with ear(tracker) as listener:
            server.kill()
            tracker.publish(STORY[:1])
            reading = asyncio.create_task(tracker.track(RUN, 0))
            listened = tracker._listening
            server.start()
            assert await reading is not None

            def heard_again() -> bool:
                tracker.publish(STORY[1:2])
                return STORY[1] in listener.steps

            await eventually(heard_again)
            assert tracker._listening is listened
        assert (await tracked(tracker, 0, 2)).steps[:2] == STORY[:2]
        await tracker.close()
        await tracker._redis.aclose()


async def test_while_redis_is_away_the_newest_steps_wait_and_the_loss_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Telling never waits, and never takes more memory than was allowed."""
    with RedisServer() as server:
        tracker = await redis_tracker(server, buffered_steps=100)
        await keep_records(tracker, [record(0)])
        server.kill()
        tracker.publish([step(Status.SENDING, 0, 0)])
        await eventually(lambda: "ledger_unreachable" in caplog.text)  # that one is on its way
        with caplog.at_level(logging.WARNING):
            for attempt in range(1, 1_001):
                tracker.publish([step(Status.SENDING, attempt, attempt)])
            server.start()
            track = await tracked(tracker, 0, 102)
        assert [one.attempt for one in track.steps] == [0, 0, *range(901, 1_001)]
        untold = [entry.__dict__["steps"] for entry in caplog.records if entry.message == "steps_lost"]
        assert untold == [900]
        await tracker.close()
        await tracker._redis.aclose()


async def test_closing_gives_the_connections_back_and_waits_for_no_dead_redis() -> None:
    """The one that hears, too, also when steps can't be told any more; the client is the caller's still."""
    with RedisServer() as server:
        tracker = await redis_tracker(server)
        pool: Any = tracker._redis.connection_pool
        async with ear(tracker):
            await eventually(lambda: len(pool._in_use_connections) == 1)
            await tracker.close()
        assert not pool._in_use_connections
        assert await tracker._redis.ping()
        again = RedisTracker(tracker._redis)
        server.kill()
        again.publish(STORY)
        await again.close()
        assert not pool._in_use_connections
        await tracker._redis.aclose()
