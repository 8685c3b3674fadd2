"""POST /sms/batch: up to 100,000 messages as a run of their own, all of them or none."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from common.broker.port import Broker
from common.errors import RunBusy, SmsimError, UnknownRun
from common.ledger.port import Ledger
from common.messages import Lane, Message, new_run_id
from common.publishing.publish import Producer
from common.tracking.port import Record, Status, Step, Tracker
from gateway.bodies import LARGE_BYTES, NDJSON, SMALL_BYTES, decoded, media_type, pieces
from gateway.idempotency.once import PARAMETER as IDEMPOTENCY_KEY
from gateway.idempotency.once import Plan, once
from gateway.idempotency.port import Idempotency
from gateway.intake import NOT_KEPT, READY_WITHIN_S, RETRY_AFTER_S
from gateway.limits import Limits
from gateway.listed import Listed
from gateway.numbers import normalise
from gateway.operations import JSON, Answer, Body, Operation, Parameter, Scope
from gateway.problems import Flaw, Problem
from gateway.recovery import Recovery
from gateway.schemas import (
    MAX_BATCH_ITEMS,
    MAX_TRACKED_ITEMS,
    BatchAccepted,
    BatchItem,
    Priority,
)
from gateway.segments import segments
from gateway.session import BATCHES, UNIQUE_BYTES, recipe
from gateway.withdraw import withdraw

log = logging.getLogger(__name__)

DEADLINE_S = 60.0
# A publication that is not confirmed by then is withdrawn.
PUBLISH_WITHIN_S = 30.0
# Batches in hand at once: what bounds the memory. Beyond that, 429.
MOST_AT_ONCE = 4
# Messages in one AMQP message.
BATCH_SIZE = 500
# Between two looks at the event loop, so that single messages are served meanwhile.
SLICE = 500
MOST_FLAWS = 100

T = TypeVar("T")

# For the document; what is wrong with a batch as a whole is told in words of our own.
_BATCH = Annotated[list[BatchItem], Meta(min_length=1, max_length=MAX_BATCH_ITEMS)]

_items = msgspec.json.Decoder(list[BatchItem])
_item = msgspec.json.Decoder(BatchItem)
_plan = msgspec.json.Decoder(BatchAccepted)
_encode = msgspec.json.Encoder().encode


class Batches:
    """Takes batches in. `count` hears of what is accepted; `track_all`: all is tracked, whatever a request says."""

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        tracker: Tracker,
        idempotency: Idempotency,
        limits: Limits,
        recovery: Recovery,
        gateway: str,
        count: Callable[[Lane, int], None],
        track_all: bool = False,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._tracker = tracker
        self._idempotency = idempotency
        self._limits = limits
        self._recovery = recovery
        self._gateway = gateway
        self._count = count
        self._track_all = track_all
        self._in_hand = 0
        # What is being published; and what of that no request waits for any more.
        self._publishing: set[asyncio.Task[None]] = set()
        self._given_up: set[asyncio.Task[None]] = set()

    def operations(self) -> list[Operation]:
        """Its endpoint."""
        example = BatchAccepted(
            "20261121-072613-9f3a", 2, 2, ["20261121-072613-9f3a.0", "20261121-072613-9f3a.1"]
        )
        items = [
            {"number": "+541166587382", "text": "hello"},
            {"number": "+358401234567", "text": "hei"},
        ]
        return [
            Operation(
                "POST",
                "/sms/batch",
                self._post,
                Scope.SEND,
                "messages",
                f"Send up to {MAX_BATCH_ITEMS:,} messages as one run",
                {
                    202: Answer("Accepted: the broker has confirmed all of them", BatchAccepted, example),
                    409: Answer("A request with this Idempotency-Key is under way"),
                },
                "A JSON array, or NDJSON, which is read as it comes. One bad message refuses them all; up to"
                f" {MOST_FLAWS} are named. 503: what no sender had taken yet is withdrawn; if one had, it says so.",
                (
                    IDEMPOTENCY_KEY,
                    Parameter("priority", "query", "the lane of all of them", Priority, "normal"),
                    Parameter(
                        "track",
                        "query",
                        f"whether each message is tracked, as single ones are; up to {MAX_TRACKED_ITEMS:,} messages."
                        " Without it their events are those of the run",
                        bool,
                        False,
                    ),
                ),
                Body({JSON: _BATCH, NDJSON: BatchItem}, {"two": items}, "the messages"),
                DEADLINE_S,
            )
        ]

    async def _post(self, request: Request) -> Response:
        lane = _choice(request, "priority", {p.value: p for p in Priority}, Priority.NORMAL).lane
        asked = _choice(request, "track", {"true": True, "false": False}, False)
        async with self._one_more():
            items, body = await _read(request)
            if asked and len(items) > MAX_TRACKED_ITEMS:
                raise Problem(
                    422, f"track is for up to {MAX_TRACKED_ITEMS} messages: leave it out, or send fewer"
                )
            messages, parts = await _checked(items)
            track = asked or self._track_all

            async def do(plan: Plan | None) -> bytes:
                self._limits.take(request.state.caller, len(messages))
                run = new_run_id(UNIQUE_BYTES)
                # The ids are left out: they follow from the run and the count.
                answer = _encode(BatchAccepted(run, len(messages), parts, []))
                if plan is not None:
                    await plan(answer)
                await self._publish(run, messages, lane, track)
                self._count(lane, len(messages))
                return answer

            async def finish(plan: bytes) -> bool:
                return await self._finish(_plan.decode(plan))

            response = await once(self._idempotency, request, body, DEADLINE_S, do, finish)
        accepted = _plan.decode(response.body)
        ids = [f"{accepted.run}.{seq}" for seq in range(accepted.count)]
        answer = _encode(msgspec.structs.replace(accepted, ids=ids))
        replayed = {k: v for k, v in response.headers.items() if k == "idempotent-replayed"}
        return Response(answer, response.status_code, replayed, JSON)

    @asynccontextmanager
    async def _one_more(self) -> AsyncIterator[None]:
        if self._in_hand + len(self._given_up) >= MOST_AT_ONCE:
            raise Problem(429, "too many batches at once: wait for one to be answered", retry_after_s=1)
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1

    def _forget(self, task: "asyncio.Task[None]") -> None:
        """One that nobody waits for has ended; what came of it is in the log."""
        self._given_up.discard(task)
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        """Returns when what is being published is confirmed, or withdrawn."""
        await asyncio.gather(*self._publishing, return_exceptions=True)

    async def _publish(self, run: str, messages: list[Message], lane: Lane, track: bool) -> None:
        """Publishes a run whole, or withdraws it; that also where the request is given up meanwhile."""
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await self._broker.ready()
        except TimeoutError:
            raise Problem(503, NOT_KEPT, retry_after_s=RETRY_AFTER_S) from None
        await self._keep(run, messages, lane, track)
        given_up = asyncio.Event()
        task = asyncio.create_task(self._publish_or_withdraw(run, messages, lane, track, given_up))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            given_up.set()
            self._given_up.add(task)
            task.add_done_callback(self._forget)
            raise
        if track:
            self._tracker.tell([_accepted_step(run, message) for message in messages])

    async def _publish_or_withdraw(
        self, run: str, messages: list[Message], lane: Lane, track: bool, given_up: asyncio.Event
    ) -> None:
        try:
            async with asyncio.timeout(PUBLISH_WITHIN_S):
                await self._ledger.begin(
                    run, recipe(BATCHES, len(messages), lane), len(messages), self._gateway
                )
                producer = Producer(self._broker, self._ledger)
                await producer.publish(run, Listed(messages), BATCH_SIZE, lane, track=track)
            if not given_up.is_set():
                return
        except (TimeoutError, SmsimError) as error:
            log.warning("batch_not_published", extra={"run": run, "reason": str(error) or "not in time"})
        try:
            announced = (await self._ledger.publication(run)).announced
            sent_on = await withdraw(self._ledger, run, np.arange(announced))
            await self._ledger.cut(run)  # not before: what is cut counts as published
        except UnknownRun:
            sent_on = np.arange(0)
        if sent_on.size:
            raise Problem(
                503,
                f"the broker went away: {sent_on.size} of {len(messages)} messages of run {run} were taken by"
                f" senders before, the others will not be sent: see GET /runs/{run} before you try again",
                retry_after_s=RETRY_AFTER_S,
            )
        raise Problem(503, NOT_KEPT, retry_after_s=RETRY_AFTER_S)

    async def _keep(self, run: str, messages: list[Message], lane: Lane, track: bool) -> None:
        """All texts are kept before any is published, so that a run that breaks off can be finished."""
        now_us = time.time_ns() // 1000
        for piece in _slices(messages):
            if track:
                await self._tracker.open(
                    [
                        Record(run=run, seq=m.seq, number=m.to, text=m.text, accepted_us=now_us, lane=lane)
                        for m in piece
                    ]
                )
            else:
                await self._tracker.keep(run, piece)
            await asyncio.sleep(0)

    async def _finish(self, planned: BatchAccepted) -> bool:
        """Finishes a run whose gateway died before it answered; False if it had not begun, or was withdrawn."""
        with contextlib.suppress(RunBusy):
            try:
                await self._recovery.finish(planned.run)
                publication = await self._ledger.publication(planned.run)
            except UnknownRun:
                return False
            return publication.confirmed >= planned.count and publication.announced >= planned.count
        raise Problem(409, f"run {planned.run} of this key is being published", retry_after_s=RETRY_AFTER_S)


async def _read(request: Request) -> tuple[list[BatchItem], bytes]:
    """The items of the body, and the body itself for the fingerprint."""
    if media_type(request, JSON, NDJSON) == JSON:
        body = b"".join([piece async for piece in pieces(request, LARGE_BYTES)])
        items = decoded(body, _items)
    else:
        items, body = await _read_lines(request)
    if not items:
        raise Problem(422, "body: no messages", [Flaw("body", "no messages")])
    if len(items) > MAX_BATCH_ITEMS:
        raise _too_many()
    return items, body


async def _read_lines(request: Request) -> tuple[list[BatchItem], bytes]:
    items: list[BatchItem] = []
    read: list[bytes] = []
    rest = b""
    async for piece in pieces(request, LARGE_BYTES):
        read.append(piece)
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            _add_line(items, line)
        if len(rest) > SMALL_BYTES:
            what = f"a line of over {SMALL_BYTES} bytes: end each message with a line end"
            raise Problem(413, f"body[{len(items)}]: {what}", [Flaw(f"body[{len(items)}]", what)])
    _add_line(items, rest)
    return items, b"".join(read)


def _add_line(items: list[BatchItem], line: bytes) -> None:
    if line.strip():
        if len(items) >= MAX_BATCH_ITEMS:
            raise _too_many()
        items.append(decoded(line, _item, f"body[{len(items)}]"))


def _too_many() -> Problem:
    return Problem(413, f"more than {MAX_BATCH_ITEMS} messages: send them as several batches")


async def _checked(items: list[BatchItem]) -> tuple[list[Message], int]:
    """The messages with numbers in E.164 form, and how many segments they take. Problem 422 names the bad ones."""
    messages: list[Message] = []
    flaws: list[Flaw] = []
    parts = 0
    for piece in _slices(items):
        for item in piece:
            seq = len(messages)
            try:
                number = normalise(item.number)
            except ValueError as error:
                number = ""
                flaws.append(Flaw(f"body[{seq}].number", str(error)))
            messages.append(Message(seq, number, item.text))
            parts += segments(item.text).segments
        if len(flaws) >= MOST_FLAWS:
            break
        await asyncio.sleep(0)
    if flaws:
        raise Problem(422, f"{flaws[0].where}: {flaws[0].what}; nothing was accepted", flaws[:MOST_FLAWS])
    return messages, parts


def _slices(items: list[T]) -> Iterator[list[T]]:
    for i in range(0, len(items), SLICE):
        yield items[i : i + SLICE]


def _choice(request: Request, name: str, choices: dict[str, T], default: T) -> T:
    """One of a query parameter's values."""
    value = request.query_params.get(name)
    if value is None:
        return default
    if value not in choices:
        what = f"must be {' or '.join(choices)}"
        raise Problem(422, f"query.{name}: {what}", [Flaw(f"query.{name}", what)])
    return choices[value]


def _accepted_step(run: str, message: Message) -> Step:
    return Step(
        run=run,
        seq=message.seq,
        status=Status.QUEUED,
        attempt=0,
        at_us=time.time_ns() // 1000,
        number=message.to,
        text=message.text,
    )
