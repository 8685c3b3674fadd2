"""Records and texts for a tracker to read, as the store of accepted messages keeps them."""

from collections.abc import Sequence

from common.messages import Message
from common.tracking.memory import MemoryTracker
from common.tracking.port import Record, Tracker
from common.tracking.redis import RedisTracker
from common.tracking.texts import packed
from common.tracking.wire import encode_record

TTL_S = 3_600


async def keep_records(tracker: Tracker, records: Sequence[Record], ttl_s: int = TTL_S) -> None:
    """Keeps the records of tracked messages."""
    if isinstance(tracker, MemoryTracker):
        tracker.keep_records(records)
        return
    assert isinstance(tracker, RedisTracker)
    names, pipe = tracker._redis.names, tracker._redis.pipeline()
    for record in records:
        pipe.rpush(names.message(record.uuid), encode_record(record))
        pipe.expire(names.message(record.uuid), ttl_s)
    await pipe.execute()


async def keep_texts(tracker: Tracker, run: str, messages: Sequence[Message], ttl_s: int = TTL_S) -> None:
    """Keeps the numbers and texts of whole chunks of a run, or of a part of one chunk."""
    if isinstance(tracker, MemoryTracker):
        tracker.keep_texts(run, messages)
        return
    assert isinstance(tracker, RedisTracker)
    key = tracker._redis.names.texts(run)
    for chunk, texts in packed(messages):
        await tracker._redis.hset(key, str(chunk), texts)
    await tracker._redis.expire(key, ttl_s)
