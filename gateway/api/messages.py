"""POST /sms, GET /sms/{uuid} and GET /key/{uuid}: accept a message, and show its status."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from common.errors import UnknownRun
from common.ledger.port import Ledger
from common.messages import Lane
from common.sms.numbers import NumberRules, normalise, number_error
from common.sms.segments import Segments, segments
from common.sms.texts import normal_text, text_error
from common.tracking.port import Status, Step, Track, Tracker
from common.tracking.statuses import statuses_of
from common.tracking.wire import iso
from common.web.bodies import SMALL_BYTES, decoded, media_type, read_body
from common.web.keys.port import Caller
from common.web.operations import JSON, Answer, Body, Operation, Parameter, Scope
from common.web.problems import FieldError, Problem
from common.web.rate import RateLimiter
from common.web.responses import json_response
from common.web.routing import audit_done
from common.web.validation import Check, failed_checks, invalid
from gateway.acceptance.acceptance import Acceptance
from gateway.acceptance.port import IdempotencyKey
from gateway.acceptance.receipts import Receipt
from gateway.api.idempotency import PARAMETER as IDEMPOTENCY_KEY
from gateway.api.idempotency import key_of_request, replayed_headers
from gateway.api.message_ids import parts_of
from gateway.api.schemas import Accepted, MessageView, Priority, SmsIn, StepView
from gateway.owners import Owners, owner_of

_UUID = Parameter(
    name="uuid",
    where="path",
    description="the message id",
    example="20261121-072613-24a5b446cc10.0",
    required=True,
)
_BODIES = {
    "hello": {"number": "+541166587382", "text": "hello"},
    "urgent": {"number": "+541166587382", "text": "hello", "priority": "urgent"},
}
_EXAMPLE = Accepted(
    "20261121-072613-24a5b446cc10.0", "+541166587382", "hello", Status.QUEUED, Segments("GSM-7", 1, 5)
)
_VIEW = MessageView(
    uuid="20261121-072613-24a5b446cc10.0",
    run="20261121-072613-24a5b446cc10",
    number="+541166587382",
    text="hello",
    status=Status.SENT,
    attempts=1,
    priority=Priority.NORMAL,
    accepted_at="2026-11-21T07:26:13.123456Z",
    sending_at="2026-11-21T07:26:13.131000Z",
    settled_at="2026-11-21T07:26:15.140210Z",
    steps=[
        StepView(Status.QUEUED, 0, "2026-11-21T07:26:13.123456Z"),
        StepView(Status.SENDING, 1, "2026-11-21T07:26:13.131000Z"),
        StepView(Status.SENT, 1, "2026-11-21T07:26:15.140210Z", 2.0081),
    ],
)
NOT_LISTED = "is not among the numbers of this key"

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(SmsIn)


class Messages:
    """Accepts single messages, and shows the status of any message.

    Attributes:
        acceptance: Accepts messages.
        ledger: Has the states.
        tracker: Has records and steps.
        limits: How many messages a caller may send.
        url_error: Checks a callback URL; gives the error, if there is one.
        numbers: How numbers are read.
        count: Counts accepted messages.
        owners: Knows whose each run is.
    """

    def __init__(
        self,
        *,
        acceptance: Acceptance,
        ledger: Ledger,
        tracker: Tracker,
        limits: RateLimiter,
        url_error: Callable[[str], str | None],
        numbers: NumberRules,
        count: Callable[[Lane, int], None],
        owners: Owners,
    ) -> None:
        self._acceptance = acceptance
        self._ledger = ledger
        self._tracker = tracker
        self._limits = limits
        self._url_error = url_error
        self._numbers = numbers
        self._checks: dict[str, Check] = {
            "number": partial(number_error, rules=numbers),
            "text": text_error,
            "callback_url": url_error,
        }
        self._count = count
        self._owners = owners

    def operations(self) -> list[Operation]:
        """Its endpoints."""
        return [
            self._post_operation(),
            self._get_operation("/sms/{uuid}", "The status of a message"),
            self._get_operation("/key/{uuid}", "The same as GET /sms/{uuid}"),
        ]

    def _post_operation(self) -> Operation:
        return Operation(
            method="POST",
            path="/sms",
            handler=self._post,
            scope=Scope.SEND,
            tag="messages",
            summary="Send a message",
            description=(
                "Answers 202 once the message is kept, never before. 503: it is not accepted, unless the answer says"
                " that it is unknown."
            ),
            parameters=(IDEMPOTENCY_KEY,),
            body=Body({JSON: SmsIn}, _BODIES),
            answers={
                202: Answer(
                    "Accepted: it is kept, and will be sent",
                    kind=Accepted,
                    example=_EXAMPLE,
                    headers={"Location": "its status: `/sms/{uuid}`"},
                ),
            },
        )

    def _get_operation(self, path: str, summary: str) -> Operation:
        return Operation(
            method="GET",
            path=path,
            handler=self._get,
            scope=Scope.READ,
            tag="messages",
            summary=summary,
            description="The status is the ledger's. Number, text and times are forgotten after MESSAGE_TTL.",
            parameters=(_UUID,),
            answers={
                200: Answer("The message", kind=MessageView, example=_VIEW),
                404: Answer("No such message"),
            },
        )

    async def _post(self, request: Request) -> Response:
        media_type(request, JSON)
        body = await read_body(request, SMALL_BYTES)
        sms = self.checked(body)
        caller: Caller = request.state.caller
        receipt = await self.submit(sms, caller, key_of_request(request, sms))
        audit_done(request, messages=0 if receipt.is_replayed else 1, id=receipt.id)
        return json_response(self.accepted(receipt, sms, caller), 202, headers_of(receipt))

    def checked(self, body: bytes) -> SmsIn:
        """The message in a body, its number and text in normal form. Raises Problem 400 or 422."""
        sms = decoded(body, _decoder, checks=self._checks, strings=SmsIn.strings)
        try:
            number = normalise(sms.number, self._numbers)
        except ValueError:
            number = ""
        url = sms.callback_url
        if not number or text_error(sms.text) or (url is not None and self._url_error(url)):
            raise invalid(failed_checks(sms, self._checks, "body"))
        return SmsIn(number, normal_text(sms.text), sms.priority, url)

    def submit(self, sms: SmsIn, caller: Caller, key: IdempotencyKey | None) -> "asyncio.Future[Receipt]":
        """Hands a checked message in. Raises Problem 403 or 429; the future may fail with Problem 422 or 503."""
        if not caller.may_send_to(sms.number):
            raise not_listed([FieldError("body.number", NOT_LISTED)])
        self._limits.take(caller, 1)
        try:
            return self._acceptance.submit(sms.priority.lane, sms.item(key), owner_of(caller))
        except Problem:
            self._limits.give_back(caller, 1)
            raise

    def accepted(self, receipt: Receipt, sms: SmsIn, caller: Caller) -> bytes:
        """Counts a message that was accepted, and gives the body of its answer."""
        if receipt.is_replayed:
            self._limits.give_back(caller, 1)
        else:
            self._count(sms.priority.lane, 1)
        return _encode(Accepted(receipt.id, sms.number, sms.text, Status.QUEUED, segments(sms.text)))

    async def _get(self, request: Request) -> Response:
        uuid = request.path_params["uuid"]
        unknown = Problem(404, "there is no message with this id")
        try:
            run, seq = parts_of(uuid)
            await self._owners.check(request.state.caller, run)
            (status,), track = await asyncio.gather(
                statuses_of(self._ledger, run, [seq]), self._tracker.track(run, seq)
            )
        except (ValueError, UnknownRun):
            raise unknown from None
        if track is not None:
            return json_response(_tracked(track, status))
        if status is Status.QUEUED and seq >= (await self._ledger.publication(run)).announced:
            raise unknown
        (message,) = await self._tracker.messages(run, [seq])
        number, text = (message.to, message.text) if message else (None, None)
        return json_response(
            MessageView(
                uuid=uuid,
                run=run,
                number=number,
                text=text,
                status=status,
                attempts=None,
                priority=None,
                accepted_at=None,
                sending_at=None,
                settled_at=None,
                steps=[],
            )
        )


def not_listed(errors: Sequence[FieldError]) -> Problem:
    """The problem of messages of a team key to other numbers than its own."""
    what = "nothing was accepted: this is a team key, which sends to its listed numbers only; `errors` says which"
    return Problem(403, what, errors)


def headers_of(receipt: Receipt) -> dict[str, str]:
    """The headers of the answer for a message that was accepted."""
    return {"Location": f"/sms/{receipt.id}", **replayed_headers(receipt.is_replayed)}


def _tracked(track: Track, status: Status) -> MessageView:
    record = track.record
    steps = sorted(track.steps, key=lambda step: (step.attempt, step.at_us))
    return MessageView(
        uuid=record.uuid,
        run=record.run,
        number=record.number,
        text=record.text,
        status=status,
        attempts=max((step.attempt for step in steps), default=0),
        priority=Priority.of(record.lane),
        accepted_at=iso(record.accepted_us),
        sending_at=_first(steps, Status.SENDING),
        settled_at=_settled_at(steps),
        steps=[
            StepView(s.status, s.attempt, iso(s.at_us), None if s.time_us is None else s.time_us / 1e6)
            for s in steps
        ],
    )


def _settled_at(steps: list[Step]) -> str | None:
    return next(
        (at for status in (Status.SENT, Status.FAILED, Status.CANCELED) if (at := _first(steps, status))),
        None,
    )


def _first(steps: list[Step], status: Status) -> str | None:
    return next((iso(step.at_us) for step in steps if step.status is status), None)
