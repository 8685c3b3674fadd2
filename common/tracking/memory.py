"""The tracker in memory. Its size is bounded: the oldest messages are removed first."""

import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Generic, TypeVar

from msgspec.structs import replace

from common.messages import Message
from common.tracking.buffers import LIMITS, Listeners
from common.tracking.port import Record, Step, Track, track_of
from common.tracking.texts import chunk_of, packed, unpacked

MOST_RECORD_BYTES = 128 * 1024 * 1024
MOST_TEXT_BYTES = 64 * 1024 * 1024

V = TypeVar("V")
Key = tuple[str, int]


class MemoryTracker:
    """Keeps records, steps and texts for `message_ttl_s`: at most `most_record_bytes` of tracked messages, and
    `most_text_bytes` of packed texts.
    """

    def __init__(
        self,
        message_ttl_s: float = 86_400,
        most_record_bytes: int = MOST_RECORD_BYTES,
        most_text_bytes: int = MOST_TEXT_BYTES,
        buffered_steps: int = LIMITS.buffered_steps,
    ) -> None:
        self._tracks: _Kept[Track] = _Kept(message_ttl_s, most_record_bytes, _size)
        self._chunks: _Kept[bytes] = _Kept(message_ttl_s, most_text_bytes, len)
        self._listeners = Listeners(buffered_steps)

    def keep_records(self, records: Sequence[Record]) -> None:
        """Keeps the records of tracked messages, from now on."""
        for record in records:
            key = (record.run, record.seq)
            if self._tracks.get(key) is None:
                self._tracks.put(key, Track(record=record, steps=[]))

    def keep_texts(self, run: str, messages: Sequence[Message]) -> None:
        """Keeps the numbers and texts of a run, compactly, from now on."""
        for chunk, texts in packed(messages):
            self._chunks.put((run, chunk), texts)

    def publish(self, steps: Sequence[Step]) -> None:
        for step in steps:
            track = self._tracks.get((step.run, step.seq))
            if track is not None and not step.is_acceptance:
                track.steps.append(replace(step, message=track.record.message))  # its own takes memory
        self._listeners.publish(steps)

    async def track(self, run: str, seq: int) -> Track | None:
        track = self._tracks.get((run, seq))
        return track and track_of(track.record, track.steps)

    async def records(self, run: str, seqs: Sequence[int]) -> list[Record | None]:
        tracks = [self._tracks.get((run, seq)) for seq in seqs]
        return [None if track is None else track.record for track in tracks]

    async def messages(self, run: str, seqs: Sequence[int]) -> list[Message | None]:
        found = {message.seq: message for message in self._known(run, set(seqs))}
        return [found.get(seq) for seq in seqs]

    def _known(self, run: str, seqs: set[int]) -> Iterator[Message]:
        for chunk in {chunk_of(seq) for seq in seqs}:
            if texts := self._chunks.get((run, chunk)):
                yield from unpacked(texts)
        for seq in seqs:
            if (track := self._tracks.get((run, seq))) is not None:
                yield track.record.message

    def listen(self) -> AsyncIterator[list[Step]]:
        return self._listeners.listen()

    async def close(self) -> None:
        """Nothing is buffered."""


def _size(track: Track) -> int:
    """About the memory of a record and three steps."""
    return 1_000 + sys.getsizeof(track.record.text) + len(track.record.callback_url or "")


class _Kept(Generic[V]):
    """Values by run and number, kept for `ttl_s` and while their sizes sum up to `most` or less."""

    def __init__(self, ttl_s: float, most: int, size_of: Callable[[V], int]) -> None:
        self._ttl_s, self._most, self._size_of = ttl_s, most, size_of
        self._values: OrderedDict[Key, tuple[V, float]] = OrderedDict()
        self._size = 0

    def get(self, key: Key) -> V | None:
        self._forget()
        value, _ = self._values.get(key, (None, 0))
        return value

    def put(self, key: Key, value: V) -> None:
        if (old := self._values.pop(key, None)) is not None:
            self._size -= self._size_of(old[0])
        self._values[key] = value, time.monotonic() + self._ttl_s
        self._size += self._size_of(value)
        self._forget()

    def _forget(self) -> None:
        now_s = time.monotonic()
        while self._values:
            value, expires_s = next(iter(self._values.values()))
            if self._size <= self._most and expires_s > now_s:
                break
            self._values.popitem(last=False)
            self._size -= self._size_of(value)
