"""POST /sms/batch: up to 100,000 messages as a run of their own, all of them or none."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from common.messages import Lane, new_run_id
from common.sms.numbers import NumberRules
from common.web.bodies import LARGE_BYTES, NDJSON, Budget
from common.web.keys.port import Caller, Kind
from common.web.operations import JSON, Answer, Body, Operation, Parameter, Scope
from common.web.problems import FieldError, Problem
from common.web.rate import RateLimiter
from common.web.responses import json_response
from common.web.routing import audit_done
from common.web.validation import MOST_ERRORS, invalid
from gateway.acceptance.acceptance import Acceptance
from gateway.acceptance.groups import UNIQUE_BYTES
from gateway.acceptance.port import NewRun
from gateway.acceptance.receipts import Receipt
from gateway.api.batch_body import NOTHING_ACCEPTED, READ_WITHIN_S, BatchBody, Rules, read_batch
from gateway.api.idempotency import PARAMETER as IDEMPOTENCY_KEY
from gateway.api.idempotency import key_of_request, replayed_headers
from gateway.api.messages import NOT_LISTED, not_listed
from gateway.api.schemas import (
    MAX_BATCH_ITEMS,
    MAX_TRACKED_ITEMS,
    BatchAccepted,
    BatchItem,
    Priority,
)
from gateway.owners import owner_of

DEADLINE_S = 60.0
# Batches at work at once, once they are read. At most this many of the largest bodies, or more small ones, are at work
# or being read, which bounds the memory. Beyond that, 429.
MOST_AT_ONCE = 4

T = TypeVar("T")
D = TypeVar("D")

# For the OpenAPI document. Errors of a batch as a whole have their own texts.
_BATCH = Annotated[list[BatchItem], Meta(min_length=1, max_length=MAX_BATCH_ITEMS)]

_encode = msgspec.json.Encoder().encode


_RUN = "20261121-072613-24a5b446cc10"
_EXAMPLE = BatchAccepted(run=_RUN, count=2, segments=2, ids=[f"{_RUN}.0", f"{_RUN}.1"])
_ITEMS = [{"number": "+541166587382", "text": "hello"}, {"number": "+358401234567", "text": "hei"}]
_PRIORITY = Parameter(
    name="priority",
    where="query",
    description="the lane of all of them",
    kind=Priority,
    example="normal",
)
_TRACK = Parameter(
    name="track",
    where="query",
    description=(
        f"whether each message is tracked, as single ones are; up to {MAX_TRACKED_ITEMS:,} messages. If not, their"
        " events are those of the run. Unless given, a batch is tracked where one of its messages has a"
        " `callback_url`, which needs it"
    ),
    kind=bool,
    example=False,
)


class Batches:
    """Takes batches.

    Attributes:
        acceptance: Accepts runs.
        limits: How many messages a caller may send.
        url_error: Checks a callback URL; gives the error, if there is one.
        numbers: How numbers are read.
        count: Counts accepted messages.
        track_all: Whether all is tracked, whatever a request says.
    """

    def __init__(
        self,
        *,
        acceptance: Acceptance,
        limits: RateLimiter,
        url_error: Callable[[str], str | None],
        numbers: NumberRules,
        count: Callable[[Lane, int], None],
        track_all: bool = False,
    ) -> None:
        self._acceptance = acceptance
        self._limits = limits
        self._rules = Rules(url_error, numbers)
        self._count = count
        self._track_all = track_all
        self._in_hand = 0
        self._bodies = Budget(MOST_AT_ONCE * LARGE_BYTES)

    def operations(self) -> list[Operation]:
        """Its endpoint."""
        return [
            Operation(
                method="POST",
                path="/sms/batch",
                handler=self._post,
                scope=Scope.SEND,
                tag="messages",
                summary=f"Send up to {MAX_BATCH_ITEMS:,} messages as one run",
                description=(
                    "A JSON array, or NDJSON, which is read as it comes. One bad message refuses them all; up to"
                    f" {MOST_ERRORS} are named. 503: none is accepted, unless the answer says that it is unknown."
                    f" Messages may have a `callback_url` in batches of up to {MAX_TRACKED_ITEMS:,}."
                ),
                parameters=(IDEMPOTENCY_KEY, _PRIORITY, _TRACK),
                body=Body({JSON: _BATCH, NDJSON: BatchItem}, {"two": _ITEMS}, "the messages"),
                answers={
                    202: Answer(
                        "Accepted: all of them are kept, and will be sent",
                        kind=BatchAccepted,
                        example=_EXAMPLE,
                        headers={"Location": "where its progress is: `/runs/{run}`"},
                    ),
                    408: Answer(f"The body did not come within {READ_WITHIN_S:g} s"),
                },
                deadline_s=DEADLINE_S,
            )
        ]

    async def _post(self, request: Request) -> Response:
        lane = _choice(request, "priority", {p.value: p for p in Priority}, Priority.NORMAL).lane
        asked = _choice(request, "track", {"true": True, "false": False}, None)
        self._look_for_room()
        with self._bodies.share() as take:
            body = await read_batch(request, self._rules, take)
            caller: Caller = request.state.caller
            _check_numbers(body, caller)
            with self._one_more():
                track = _tracked(asked, body) or self._track_all
                said = (lane, track, body.messages, body.callback_urls)
                batch = NewRun(
                    run=new_run_id(UNIQUE_BYTES),
                    messages=body.messages,
                    lane=lane,
                    track=track,
                    accepted_us=time.time_ns() // 1000,
                    callback_urls=body.callback_urls,
                    key=key_of_request(request, said),
                    owner=owner_of(caller),
                )
                receipt = await self._accept(batch, caller)
        audit_done(request, messages=0 if receipt.is_replayed else len(body.messages), id=receipt.id)
        ids = [f"{receipt.id}.{message.seq}" for message in body.messages]
        answer = BatchAccepted(receipt.id, len(ids), body.segments, ids)
        headers = {"Location": f"/runs/{receipt.id}", **replayed_headers(receipt.is_replayed)}
        return json_response(_encode(answer), 202, headers)

    async def _accept(self, batch: NewRun, caller: Caller) -> Receipt:
        messages = len(batch.messages)
        self._limits.take(caller, messages)
        receipt = await self._acceptance.accept_run(batch)
        if receipt.is_replayed:
            self._limits.give_back(caller, messages)
        else:
            self._count(batch.lane, messages)
        return receipt

    def _look_for_room(self) -> None:
        if self._in_hand >= MOST_AT_ONCE:
            raise Problem(429, "too many batches at once: wait for one to be answered", retry_after_s=1)

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        self._look_for_room()
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1


def _check_numbers(batch: BatchBody, caller: Caller) -> None:
    """Raises Problem 403 if a message may not go to its number."""
    if caller.kind is not Kind.TEAM:
        return
    others = [at for at, message in enumerate(batch.messages) if not caller.may_send_to(message.to)]
    if others:
        raise not_listed([FieldError(f"body[{at}].number", NOT_LISTED) for at in others[:MOST_ERRORS]])


def _tracked(asked: bool | None, batch: BatchBody) -> bool:
    """Whether to track a batch: as asked, else if it has callbacks, which need it. Problem 422 if that can't be."""
    what = None
    if asked and len(batch.messages) > MAX_TRACKED_ITEMS:
        what = f"is for up to {MAX_TRACKED_ITEMS:,} messages: leave it out, or send fewer"
    elif asked is False and batch.callback_urls:
        first = min(batch.callback_urls)
        what = f"must not be false where a message has a callback_url, as body[{first}] has: leave it out"
    if what is not None:
        raise invalid([FieldError("query.track", what)], NOTHING_ACCEPTED)
    return bool(batch.callback_urls) if asked is None else asked


def _choice(request: Request, name: str, choices: dict[str, T], default: D) -> T | D:
    """One of a query parameter's values."""
    values = request.query_params.getlist(name)
    if not values:
        return default
    if values[0] not in choices:
        what = f"must be {' or '.join(choices)}"
        raise invalid([FieldError(f"query.{name}", what)])
    return choices[values[0]]
