"""The tracker in Redis: a list for each tracked message, a hash for the texts of each run, and Pub/Sub."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from importlib.resources import files
from itertools import islice
from typing import TypeVar

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from common import keys
from common.backoff import Backoff
from common.errors import Refused
from common.messages import Message
from common.redis import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, cancellable, retry_until_answered
from common.tracking.listeners import Listeners
from common.tracking.port import Channel, Record, Step, Track, track_of
from common.tracking.teller import Teller
from common.tracking.texts import chunk_of, packed, unpacked
from common.tracking.waiting import MOST_WAITING
from common.tracking.wire import brief, heard, kept, of_brief, of_kept, told

log = logging.getLogger(__name__)

RECORDS_A_CALL = 500
# Each holds up the event loop for about a millisecond while it is packed or unpacked.
CHUNKS_A_CALL = 8
# What can't be read is told of so often at most: whoever can publish may publish much.
LOG_EVERY_S = 10.0
# A connection that was silent for twice this long is given up: Redis answers a ping.
PING_S = 10.0

T = TypeVar("T")


class RedisTracker:
    """Records, steps and texts for `message_ttl_s`; steps are told to all processes on this Redis.

    The client stays the caller's. One connection of it hears what is told, for all who listen in this process.
    """

    def __init__(self, client: Redis, message_ttl_s: float, most_waiting: int = MOST_WAITING) -> None:
        self._redis = client
        self._ttl_s = max(1, int(message_ttl_s))
        lua = files("common.tracking")
        self._open, self._keep, self._tell = (
            client.register_script((lua / f"{name}.lua").read_text()) for name in ("open", "keep", "tell")
        )
        self._teller = Teller(self._send, most_waiting)
        self._listeners = Listeners(most_waiting)
        self._hearing: asyncio.Task[None] | None = None
        self._fresh: list[Step] = []
        self._unread = 0
        self._logs_again_s = 0.0

    async def open(self, records: Sequence[Record]) -> None:
        for part in _parts(records, RECORDS_A_CALL):
            lists = [keys.message(record.uuid) for record in part]
            args: list[int | bytes] = [self._ttl_s, *(kept(record) for record in part)]
            await retry_until_answered(partial(self._open, keys=lists, args=args))

    async def keep(self, run: str, messages: Sequence[Message]) -> None:
        for part in _parts(packed(messages), CHUNKS_A_CALL):
            args = [self._ttl_s, *(one for piece in part for one in piece)]
            await retry_until_answered(partial(self._keep, keys=[keys.texts(run)], args=args))

    def tell(self, steps: Sequence[Step]) -> None:
        self._teller.tell(steps)

    async def _send(self, steps: list[Step]) -> None:
        """Keeps and tells steps. A pipeline of commands took this process three times as long as the script does."""
        args = [
            arg
            for step in steps
            for arg in (step.channel, b"" if step.is_acceptance else brief(step), told(step))
        ]
        try:
            await retry_until_answered(self._redis.ping)
            # Not repeated, for that might tell steps twice.
            lists = [keys.message(step.uuid) for step in steps]
            await cancellable(partial(self._tell, keys=lists, args=args))
        except (RedisError, OSError, RuntimeError, Refused) as error:
            log.warning("steps_untold", extra={"steps": len(steps), "reason": type(error).__name__})
            await asyncio.sleep(FIRST_BACKOFF_S)

    async def track(self, run: str, seq: int) -> Track | None:
        found = await retry_until_answered(lambda: self._redis.lrange(keys.message(f"{run}.{seq}"), 0, -1))
        if not found:
            return None
        record = of_kept(found[0], run, seq)
        steps = [of_brief(data, run, record.message) for data in found[1:]]
        return track_of(record, steps)

    async def records(self, run: str, seqs: Sequence[int]) -> list[Record | None]:
        found: list[Record | None] = []
        for part in _parts(seqs, RECORDS_A_CALL):
            first = await self._first_of_each(run, part)
            found += [
                None if data is None else of_kept(data, run, seq)
                for seq, data in zip(part, first, strict=True)
            ]
        return found

    async def messages(self, run: str, seqs: Sequence[int]) -> list[Message | None]:
        wanted, found = set(seqs), dict[int, Message]()
        for chunks in _parts(sorted({chunk_of(seq) for seq in wanted}), CHUNKS_A_CALL):
            for pieces in await retry_until_answered(partial(self._redis.hmget, keys.texts(run), chunks)):
                found.update((m.seq, m) for m in unpacked(pieces or b"") if m.seq in wanted)
        for record in await self.records(run, sorted(wanted - found.keys())):
            if record is not None:
                found[record.seq] = record.message
        return [found.get(seq) for seq in seqs]

    async def _first_of_each(self, run: str, seqs: list[int]) -> list[bytes | None]:
        """The records of some messages, as they are kept."""

        async def read() -> list[bytes | None]:
            pipe = self._redis.pipeline(transaction=False)
            for seq in seqs:
                pipe.lindex(keys.message(f"{run}.{seq}"), 0)
            return await pipe.execute()

        found: list[bytes | None] = await retry_until_answered(read)
        return found

    def listen(self) -> AsyncIterator[list[Step]]:
        if self._hearing is None or self._hearing.done():
            self._hearing = asyncio.create_task(self._hear())
        return self._listeners.listen()

    async def _hear(self) -> None:
        """Hears what is told until cancelled, over as many connections as that takes."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_BACKOFF_S, LONGEST_BACKOFF_S)
        while True:
            began_s = loop.time()
            try:
                async with self._redis.pubsub(push_handler_func=_as_it_is) as pubsub:
                    await self._hear_on(pubsub)
            except Exception as error:  # noqa: BLE001  # nobody else would see it, and all who listen hear nothing more
                if loop.time() - began_s > LONGEST_BACKOFF_S:
                    backoff.reset()
                if not backoff.begun:
                    known = isinstance(error, RedisError | OSError | RuntimeError)  # with a TimeoutError
                    reason = str(error) if known else ""
                    log.warning("steps_unheard", extra={"reason": reason or type(error).__name__})
                await backoff.pause()

    async def _hear_on(self, pubsub: PubSub) -> None:
        """Hears what is told until the connection is lost, which raises."""
        loop = asyncio.get_running_loop()
        await cancellable(partial(pubsub.subscribe, *Channel))
        assert pubsub.connection is not None
        # Straight from the connection: `pubsub.listen` takes twice as long for a message.
        read = partial(pubsub.connection.read_response, timeout=math.inf, push_request=True)
        pinging = asyncio.create_task(_ping(pubsub))
        try:
            async with asyncio.timeout(2 * PING_S) as patience:
                while True:
                    kind, channel, *data = await read()
                    if kind == b"message":
                        self._heard(channel, *data)
                    else:
                        patience.reschedule(loop.time() + 2 * PING_S)
        finally:
            pinging.cancel()
            await asyncio.gather(pinging, return_exceptions=True)

    def _heard(self, channel: bytes, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            step = heard(data)
        except (msgspec.MsgspecError, ValueError, ArithmeticError):  # whatever its numbers are
            self._unread += 1
            if loop.time() >= self._logs_again_s:
                about = {"channel": channel.decode(), "bytes": len(data), "count": self._unread}
                log.warning("step_unreadable", extra=about)
                self._unread, self._logs_again_s = 0, loop.time() + LOG_EVERY_S
            return
        if not self._fresh:
            # What has arrived together is read in one turn of the loop, and told at the next.
            loop.call_soon(self._tell_fresh)
        self._fresh.append(step)

    def _tell_fresh(self) -> None:
        fresh, self._fresh = self._fresh, []
        self._listeners.tell(fresh)

    async def close(self) -> None:
        if self._hearing is not None:
            self._hearing.cancel()
            await asyncio.gather(self._hearing, return_exceptions=True)
        await self._teller.close()


async def _as_it_is(response: T) -> T:
    """In place of the client's own, which makes a text of each message, for a debug log that nobody reads."""
    return response


async def _ping(pubsub: PubSub) -> None:
    """Asks for a sign of life. An error here is one for who listens as well."""
    while True:
        await asyncio.sleep(PING_S)
        await cancellable(pubsub.ping)


def _parts(things: Sequence[T] | Iterator[T], size: int) -> Iterator[list[T]]:
    """The things in their order, so many at a time."""
    rest = iter(things)
    while part := list(islice(rest, size)):
        yield part
