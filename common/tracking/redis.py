"""The tracker in Redis: a list for each tracked message, a hash for the texts of each run, and Pub/Sub."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from itertools import islice
from typing import TypeVar

import msgspec
from redis.asyncio.client import PubSub
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from common.errors import SmsimError
from common.messages import Message
from common.redis import TIMING, Client, RedisTiming, cancellable
from common.tracking import buffers
from common.tracking.buffers import BackgroundPublisher, Listeners
from common.tracking.port import Channel, Record, Step, Track, track_of
from common.tracking.texts import chunk_of, unpacked
from common.tracking.wire import (
    decode_brief,
    decode_record,
    decode_step,
    encode_brief,
    encode_step,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes and the timing of the tracker in Redis.

    Attributes:
        records_a_call: Most records in one call.
        chunks_a_call: Most chunks of texts in one call; each blocks the event loop for up to a millisecond.
        ping_s: Interval of the pings of a listening connection.
        silence_s: A listening connection is given up when silent for this long.
        log_every_s: Unreadable steps are logged no more often than this: anybody can publish many.
    """

    records_a_call: int = 500
    chunks_a_call: int = 80
    ping_s: float = 2.0
    silence_s: float = 20.0
    log_every_s: float = 10.0


LIMITS = Limits()

T = TypeVar("T")


class RedisTracker:
    """Reads records and texts, keeps steps beside them, and publishes steps to all processes on this Redis.

    The caller closes the client. All listeners of this process share one connection.
    """

    def __init__(
        self,
        client: Client,
        buffered_steps: int = buffers.LIMITS.buffered_steps,
        limits: Limits = LIMITS,
        timing: RedisTiming = TIMING,
    ) -> None:
        self._redis = client
        self._names = client.names
        self._channels = {channel: client.names.channel(channel) for channel in Channel}
        self._limits = limits
        self._timing = timing
        self._publish = client.register_script((files("common.tracking") / "publish.lua").read_text())
        self._publisher = BackgroundPublisher(self._send, buffered_steps)
        self._listeners = Listeners(buffered_steps)
        self._listening: asyncio.Task[None] | None = None
        self._received: list[Step] = []
        self._unreadable = 0
        self._logs_again_s = 0.0

    def publish(self, steps: Sequence[Step]) -> None:
        self._publisher.publish(steps)

    async def _send(self, steps: list[Step]) -> None:
        """Keeps and publishes steps. A pipeline of commands takes this process three times as long as the script."""
        args = [
            arg
            for step in steps
            for arg in (
                self._channels[step.channel],
                b"" if step.is_acceptance else encode_brief(step),
                encode_step(step),
            )
        ]
        try:
            await self._redis.until_answered(self._redis.ping)
            # Not repeated: that could publish steps twice.
            lists = [self._names.message(step.uuid) for step in steps]
            await self._redis.once(partial(self._publish, keys=lists, args=args))
        except (SmsimError, OSError) as error:
            log.warning("steps_lost", extra={"steps": len(steps), "reason": str(error)})
            await asyncio.sleep(self._timing.first_backoff_s)

    async def track(self, run: str, seq: int) -> Track | None:
        found = await self._redis.until_answered(
            lambda: self._redis.lrange(self._names.message(f"{run}.{seq}"), 0, -1)
        )
        if not found:
            return None
        record = decode_record(found[0], run, seq)
        steps = [decode_brief(data, run, record.message) for data in found[1:]]
        return track_of(record, steps)

    async def records(self, run: str, seqs: Sequence[int]) -> list[Record | None]:
        found: list[Record | None] = []
        for part in _parts(seqs, self._limits.records_a_call):
            first = await self._first_of_each(run, part)
            found += [
                None if data is None else decode_record(data, run, seq)
                for seq, data in zip(part, first, strict=True)
            ]
        return found

    async def messages(self, run: str, seqs: Sequence[int]) -> list[Message | None]:
        wanted, found = set(seqs), dict[int, Message]()
        for chunks in _parts(sorted({chunk_of(seq) for seq in wanted}), self._limits.chunks_a_call):
            for texts in await self._redis.until_answered(
                partial(self._redis.hmget, self._names.texts(run), chunks)
            ):
                found.update((m.seq, m) for m in (unpacked(texts) if texts else ()) if m.seq in wanted)
        for record in await self.records(run, sorted(wanted - found.keys())):
            if record is not None:
                found[record.seq] = record.message
        return [found.get(seq) for seq in seqs]

    async def _first_of_each(self, run: str, seqs: list[int]) -> list[bytes | None]:
        """The encoded records of some messages."""

        async def read() -> list[bytes | None]:
            pipe = self._redis.pipeline(transaction=False)
            for seq in seqs:
                pipe.lindex(self._names.message(f"{run}.{seq}"), 0)
            return await pipe.execute()

        found: list[bytes | None] = await self._redis.until_answered(read)
        return found

    def listen(self) -> AsyncIterator[list[Step]]:
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._listen())
        return self._listeners.listen()

    async def _listen(self) -> None:
        """Receives published steps until cancelled; connects again after an error."""
        loop = asyncio.get_running_loop()
        backoff = self._timing.backoff()
        while True:
            began_s = loop.time()
            try:
                async with self._redis.pubsub(push_handler_func=_as_it_is) as pubsub:
                    await self._receive(pubsub)
            except Exception as error:  # noqa: BLE001  # it would end all listening, and nobody awaits this task
                if loop.time() - began_s > self._timing.longest_backoff_s:
                    backoff.reset()
                if not backoff.begun:
                    known = isinstance(error, RedisError | OSError | RuntimeError)  # with a TimeoutError
                    reason = str(error) if known else ""
                    log.warning("steps_unheard", extra={"reason": reason or type(error).__name__})
                await backoff.pause()

    async def _receive(self, pubsub: PubSub) -> None:
        """Receives steps until the connection is lost, which raises."""
        loop, silence_s, epoch = (
            asyncio.get_running_loop(),
            self._limits.silence_s,
            self._redis.endpoint.epoch,
        )
        await cancellable(partial(pubsub.subscribe, *self._channels.values()))
        assert pubsub.connection is not None
        # Straight from the connection: `pubsub.listen` takes twice as long for a message.
        read = partial(pubsub.connection.read_response, timeout=math.inf, push_request=True)
        pinging = asyncio.create_task(self._ping(pubsub, pubsub.connection, epoch))
        try:
            async with asyncio.timeout(silence_s) as deadline:
                while True:
                    kind, channel, *data = await read()
                    if kind == b"message":
                        self._on_step(channel, *data)
                    else:
                        deadline.reschedule(loop.time() + silence_s)
        finally:
            pinging.cancel()
            await asyncio.gather(pinging, return_exceptions=True)

    async def _ping(self, pubsub: PubSub, connection: AbstractConnection, epoch: int) -> None:
        """Pings Redis. If that fails, or the epoch of the connection is over, reading from it fails as well."""
        while self._redis.endpoint.epoch == epoch:
            await cancellable(pubsub.ping)
            await asyncio.sleep(self._limits.ping_s)
        await connection.disconnect(nowait=True)

    def _on_step(self, channel: bytes, data: bytes) -> None:
        try:
            step = decode_step(data)
        except (msgspec.MsgspecError, ValueError, ArithmeticError):
            self._log_unreadable(channel, data)
            return
        if not self._received:
            # Steps that arrived together are passed on together, at the next turn of the loop.
            asyncio.get_running_loop().call_soon(self._pass_on)
        self._received.append(step)

    def _pass_on(self) -> None:
        received, self._received = self._received, []
        self._listeners.publish(received)

    def _log_unreadable(self, channel: bytes, data: bytes) -> None:
        self._unreadable += 1
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._logs_again_s:
            about = {"channel": channel.decode(), "bytes": len(data), "count": self._unreadable}
            log.warning("step_unreadable", extra=about)
            self._unreadable, self._logs_again_s = 0, now_s + self._limits.log_every_s

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self._publisher.close()


async def _as_it_is(response: T) -> T:
    """Replaces the client's own handler, which formats each message for a debug log."""
    return response


def _parts(things: Sequence[T] | Iterator[T], size: int) -> Iterator[list[T]]:
    """The things in their order, `size` at a time."""
    rest = iter(things)
    while part := list(islice(rest, size)):
        yield part
