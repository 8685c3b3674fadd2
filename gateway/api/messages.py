"""POST /sms, GET /sms/{uuid} and GET /key/{uuid}: one message, and what became of it."""

import asyncio
import time
from collections.abc import Callable

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from common.errors import UnknownRun
from common.ledger.port import Ledger
from common.messages import MAX_SEQ, Lane, Message, State, is_run_id
from common.sms.numbers import flaw_of_number, normalise
from common.sms.segments import Segments, segments
from common.tracking.port import Record, Status, Step, Track, Tracker
from common.tracking.wire import iso
from common.web.answers import json_answer
from common.web.bodies import SMALL_BYTES, decoded, media_type, read_body
from common.web.flaws import Check, refused
from common.web.operations import DEADLINE_S, JSON, Answer, Body, Operation, Parameter, Scope
from common.web.problems import Flaw, Problem
from common.web.rate import RateLimiter
from gateway.acceptance.groups import Keyed
from gateway.acceptance.intake import Intake
from gateway.api.schemas import Accepted, MessageView, Priority, SmsIn, StepView
from gateway.idempotency.hold import Hold
from gateway.idempotency.once import PARAMETER as IDEMPOTENCY_KEY
from gateway.idempotency.once import once
from gateway.idempotency.port import Idempotency

_STATUS = {state: Status[state.name] for state in State}
_UUID = Parameter("uuid", "path", "the message id", example="20261121-072613-24a5b446cc10.0", required=True)
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
_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(SmsIn)
_accepted_decoder = msgspec.json.Decoder(Accepted)


class Messages:
    """Takes single messages in and tells what became of any message. `flaw_of` says what is wrong with a callback URL;
    `count` hears of what is accepted.
    """

    def __init__(
        self,
        intake: Intake,
        ledger: Ledger,
        tracker: Tracker,
        idempotency: Idempotency,
        limits: RateLimiter,
        flaw_of: Callable[[str], str | None],
        count: Callable[[Lane, int], None],
    ) -> None:
        self._intake = intake
        self._ledger = ledger
        self._tracker = tracker
        self._idempotency = idempotency
        self._limits = limits
        self._flaw_of = flaw_of
        self._checks: dict[str, Check] = {"number": flaw_of_number, "callback_url": flaw_of}
        self._count = count

    def operations(self) -> list[Operation]:
        """Its endpoints."""
        found = {200: Answer("What is known of it", MessageView, _VIEW), 404: Answer("No such message")}
        about = "The status is the ledger's. Number, text and times are forgotten after MESSAGE_TTL."
        return [
            Operation(
                "POST",
                "/sms",
                self._post,
                Scope.SEND,
                "messages",
                "Send a message",
                {
                    202: Answer(
                        *("Accepted: the broker has confirmed that it keeps it", Accepted, _EXAMPLE),
                        headers={"Location": "what becomes of it: `/sms/{uuid}`"},
                    ),
                    409: Answer("A request with this Idempotency-Key is under way"),
                },
                "Answers 202 once the broker has confirmed the message, never before. 503 means that it is not sent,"
                " unless it says that the gateway is stopping.",
                (IDEMPOTENCY_KEY,),
                Body(
                    {JSON: SmsIn},
                    {
                        "hello": {"number": "+541166587382", "text": "hello"},
                        "urgent": {"number": "+541166587382", "text": "hello", "priority": "urgent"},
                    },
                ),
            ),
            *(
                Operation("GET", path, self._get, Scope.READ, "messages", summary, found, about, (_UUID,))
                for path, summary in (
                    ("/sms/{uuid}", "What became of a message"),
                    ("/key/{uuid}", "The same as GET /sms/{uuid}"),
                )
            ),
        ]

    async def _post(self, request: Request) -> Response:
        media_type(request, JSON)
        body = await read_body(request, SMALL_BYTES)
        sms = decoded(body, _decoder, checks=self._checks)
        flaws = []
        number = ""
        try:
            number = normalise(sms.number)
        except ValueError as error:
            flaws.append(Flaw("body.number", str(error)))
        if sms.callback_url is not None and (flaw := self._flaw_of(sms.callback_url)) is not None:
            flaws.append(Flaw("body.callback_url", flaw))
        if flaws:
            raise refused(flaws)

        def answer(record: Record) -> bytes:
            return _encode(Accepted(record.uuid, number, sms.text, Status.QUEUED, segments(sms.text)))

        async def do(hold: Hold | None) -> bytes:
            self._limits.take(request.state.caller, 1)
            keyed = None if hold is None else Keyed(hold, answer)
            record = await self._intake.accept(number, sms.text, sms.priority.lane, sms.callback_url, keyed)
            self._count(record.lane, 1)
            return answer(record)

        async def finish(plan: bytes, void: bool) -> bool:
            return await self._finish(_accepted_decoder.decode(plan), sms, void)

        response = await once(self._idempotency, request, body, DEADLINE_S, do, finish)
        response.headers["Location"] = f"/sms/{_accepted_decoder.decode(response.body).uuid}"
        return response

    async def _finish(self, planned: Accepted, sms: SmsIn, void: bool) -> bool:
        """Carries out the plan of a gateway that died: publishes its message again, unless it went its way already.

        False if nothing is sent, and nothing will be, so that another message is due. So what was never announced is
        withdrawn, as what is void: the gateway that planned it may wake yet, and go on.
        """
        run, seq = parts_of(planned.uuid)
        this = np.array([seq], np.int64)
        try:
            announced = (await self._ledger.publication(run)).announced
            if void or seq >= announced:
                await self._ledger.withdraw(run, this)
            (state,) = await self._ledger.states(run, this)
        except UnknownRun:
            return False
        if state == State.FAILED:
            track = await self._tracker.track(run, seq)
            return track is not None and any(step.attempt > 0 for step in track.steps)
        if state != State.QUEUED:
            return True
        record = Record(
            run=run,
            message=Message(seq=seq, to=planned.number, text=planned.text),
            accepted_us=time.time_ns() // 1000,
            lane=sms.priority.lane,
            callback_url=sms.callback_url,
        )
        await self._intake.publish_again(record)
        return True

    async def _get(self, request: Request) -> Response:
        uuid = request.path_params["uuid"]
        unknown = Problem(404, "there is no message with this id")
        try:
            run, seq = parts_of(uuid)
            (state,), track = await asyncio.gather(
                self._ledger.states(run, np.array([seq], np.int64)), self._tracker.track(run, seq)
            )
        except (ValueError, UnknownRun):
            raise unknown from None
        if track is not None:
            return json_answer(_tracked(track, _STATUS[State(state)]))
        if state == State.QUEUED and seq >= (await self._ledger.publication(run)).announced:
            raise unknown
        (message,) = await self._tracker.messages(run, [seq])
        number, text = (message.to, message.text) if message else (None, None)
        status = _STATUS[State(state)]
        return json_answer(MessageView(uuid, run, number, text, status, None, None, None, None, None, []))


def parts_of(uuid: str) -> tuple[str, int]:
    """Run and seq of a message id. Raises ValueError where it is none."""
    run, _, digits = uuid.partition(".")
    if not is_run_id(run) or not digits.isascii() or not digits.isdigit() or str(int(digits[:20])) != digits:
        raise ValueError("no message id")
    seq = int(digits)
    if seq >= MAX_SEQ:
        raise ValueError("no message id")
    return run, seq


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
        settled_at=_first(steps, Status.SENT) or _first(steps, Status.FAILED),
        steps=[
            StepView(s.status, s.attempt, iso(s.at_us), None if s.time_us is None else s.time_us / 1e6)
            for s in steps
        ],
    )


def _first(steps: list[Step], status: Status) -> str | None:
    return next((iso(step.at_us) for step in steps if step.status is status), None)
