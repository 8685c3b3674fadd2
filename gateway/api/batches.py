"""POST /sms/batch: up to 100,000 messages as a run of their own, all of them or none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from common.errors import RunBusy, UnknownRun
from common.ledger.port import Ledger
from common.messages import Lane, new_run_id
from common.web.answers import json_answer
from common.web.bodies import LARGE_BYTES, NDJSON, Budget
from common.web.flaws import MOST_FLAWS, refused
from common.web.operations import JSON, Answer, Body, Operation, Parameter, Scope
from common.web.problems import Flaw, Problem
from common.web.rate import RateLimiter
from gateway.acceptance.batch_intake import BatchIntake, BatchRun, in_part
from gateway.acceptance.groups import RETRY_AFTER_S
from gateway.acceptance.recovery import Recovery
from gateway.acceptance.session import UNIQUE_BYTES
from gateway.api.batch_body import NOTHING_ACCEPTED, READ_WITHIN_S, BatchBody, read_batch
from gateway.api.schemas import (
    MAX_BATCH_ITEMS,
    MAX_TRACKED_ITEMS,
    BatchAccepted,
    BatchItem,
    Priority,
)
from gateway.idempotency.hold import Hold
from gateway.idempotency.once import PARAMETER as IDEMPOTENCY_KEY
from gateway.idempotency.once import once
from gateway.idempotency.port import Idempotency

DEADLINE_S = 60.0
# Batches in hand at once, once they are read; so many of the largest bodies are in hand or being read, or more small
# ones: what bounds the memory. Beyond that, 429.
MOST_AT_ONCE = 4

T = TypeVar("T")
D = TypeVar("D")

# For the document; what is wrong with a batch as a whole is told in words of our own.
_BATCH = Annotated[list[BatchItem], Meta(min_length=1, max_length=MAX_BATCH_ITEMS)]

_plan = msgspec.json.Decoder(BatchAccepted)
_encode = msgspec.json.Encoder().encode


class Batches:
    """Takes batches in. `flaw_of` says what is wrong with a callback URL; `count` hears of what is accepted;
    `track_all`: all is tracked, whatever a request says.
    """

    def __init__(
        self,
        intake: BatchIntake,
        ledger: Ledger,
        idempotency: Idempotency,
        limits: RateLimiter,
        recovery: Recovery,
        flaw_of: Callable[[str], str | None],
        count: Callable[[Lane, int], None],
        track_all: bool = False,
    ) -> None:
        self._intake = intake
        self._ledger = ledger
        self._idempotency = idempotency
        self._limits = limits
        self._recovery = recovery
        self._flaw_of = flaw_of
        self._count = count
        self._track_all = track_all
        self._in_hand = 0
        self._bodies = Budget(MOST_AT_ONCE * LARGE_BYTES)

    def operations(self) -> list[Operation]:
        """Its endpoint."""
        example = BatchAccepted(
            "20261121-072613-24a5b446cc10",
            2,
            2,
            ["20261121-072613-24a5b446cc10.0", "20261121-072613-24a5b446cc10.1"],
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
                    202: Answer(
                        *("Accepted: the broker has confirmed all of them", BatchAccepted, example),
                        headers={"Location": "where its progress is: `/runs/{run}`"},
                    ),
                    408: Answer(f"The body did not come within {READ_WITHIN_S:g} s"),
                    409: Answer("A request with this Idempotency-Key is under way"),
                },
                "A JSON array, or NDJSON, which is read as it comes. One bad message refuses them all; up to"
                f" {MOST_FLAWS} are named. 503: what no sender had taken yet is withdrawn; if one had, it says so."
                f" Messages may have a `callback_url` in batches of up to {MAX_TRACKED_ITEMS:,}.",
                (
                    IDEMPOTENCY_KEY,
                    Parameter("priority", "query", "the lane of all of them", Priority, "normal"),
                    Parameter(
                        "track",
                        "query",
                        f"whether each message is tracked, as single ones are; up to {MAX_TRACKED_ITEMS:,} messages."
                        " If not, their events are those of the run. Unless given, a batch is tracked where one of its"
                        " messages has a `callback_url`, which needs it",
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
        asked = _choice(request, "track", {"true": True, "false": False}, None)
        self._look_for_room()
        with self._bodies.share() as take:
            batch = await read_batch(request, self._flaw_of, take)
            with self._one_more():
                messages = batch.messages
                track = _tracked(asked, batch) or self._track_all

                async def do(hold: Hold | None) -> bytes:
                    self._limits.take(request.state.caller, len(messages))
                    run = new_run_id(UNIQUE_BYTES)
                    # The ids are left out: they follow from the run and the count.
                    answer = _encode(BatchAccepted(run, len(messages), batch.segments, []))
                    await self._intake.accept(
                        BatchRun(run, messages, lane, track, batch.callback_urls), hold, answer
                    )
                    self._count(lane, len(messages))
                    return answer

                async def finish(plan: bytes, void: bool) -> bool:
                    return await self._finish(_plan.decode(plan), void)

                response = await once(self._idempotency, request, batch.raw, DEADLINE_S, do, finish)
        accepted = _plan.decode(response.body)
        ids = [f"{accepted.run}.{seq}" for seq in range(accepted.count)]
        answer = _encode(msgspec.structs.replace(accepted, ids=ids))
        headers = {k: v for k, v in response.headers.items() if k == "idempotent-replayed"}
        return json_answer(answer, response.status_code, {**headers, "Location": f"/runs/{accepted.run}"})

    def _look_for_room(self) -> None:
        if self._in_hand + self._intake.given_up >= MOST_AT_ONCE:
            raise Problem(429, "too many batches at once: wait for one to be answered", retry_after_s=1)

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        self._look_for_room()
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1

    async def _finish(self, planned: BatchAccepted, void: bool) -> bool:
        """Finishes a run whose gateway died before it answered, or takes it back if that one was about to; False if
        nothing of it is sent.
        """
        run = planned.run
        try:
            if void:
                taken = await self._intake.take_back(run)
                if 0 < taken < planned.count:
                    raise Problem(409, f"withdrawn: {in_part(run, taken, planned.count)}")
                return taken > 0
            try:
                await self._recovery.finish(run)
                publication = await self._ledger.publication(run)
            except UnknownRun:
                await self._intake.rule_out(run)
                return False
            return publication.confirmed >= planned.count and publication.announced >= planned.count
        except RunBusy:
            raise Problem(
                409, f"run {run} of this key is being published", retry_after_s=RETRY_AFTER_S
            ) from None


def _tracked(asked: bool | None, batch: BatchBody) -> bool:
    """Whether to track a batch: as asked, else if it has callbacks, which need it. Problem 422 if that can't be."""
    what = None
    if asked and len(batch.messages) > MAX_TRACKED_ITEMS:
        what = f"is for up to {MAX_TRACKED_ITEMS:,} messages: leave it out, or send fewer"
    elif asked is False and batch.callback_urls:
        first = min(batch.callback_urls)
        what = f"must not be false where a message has a callback_url, as body[{first}] has: leave it out"
    if what is not None:
        raise refused([Flaw("query.track", what)], NOTHING_ACCEPTED)
    return bool(batch.callback_urls) if asked is None else asked


def _choice(request: Request, name: str, choices: dict[str, T], default: D) -> T | D:
    """One of a query parameter's values."""
    values = request.query_params.getlist(name)
    if not values:
        return default
    if len(values) > 1:
        raise refused([Flaw(f"query.{name}", "given more than once: give one value")])
    if values[0] not in choices:
        what = f"must be {' or '.join(choices)}"
        raise refused([Flaw(f"query.{name}", what)])
    return choices[values[0]]
