"""DELETE /sms/{uuid} and POST /runs/{run}/cancel: cancel queued messages."""

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from common.cancel import Canceled, Cancellation
from common.errors import UnknownRun
from common.ledger.port import Ledger
from common.messages import is_run_id
from common.tracking.port import Status, Tracker
from common.tracking.statuses import statuses_of
from common.web.operations import Answer, Operation, Parameter, Scope
from common.web.problems import Problem
from common.web.responses import json_response
from common.web.routing import audit_done
from gateway.api.message_ids import parts_of
from gateway.api.schemas import RunName, UuidText
from gateway.owners import Owners

# To tell of 100,000 tracked messages takes some 13 s.
RUN_DEADLINE_S = 60.0

Count = Annotated[int, Meta(ge=0)]


class CancelCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The number of messages by status. Messages that are sending or settled do not change."""

    canceled: Annotated[int, Meta(ge=0, description="canceled, by this request or an earlier one")]
    sending: Annotated[int, Meta(ge=0, description="being sent: they go on")]
    sent: Annotated[int, Meta(ge=0, description="sent before")]
    failed: Annotated[int, Meta(ge=0, description="failed before")]


class MessageCanceled(CancelCounts, frozen=True, kw_only=True):
    """A message after a request to cancel it."""

    uuid: UuidText
    status: Status


class RunCanceled(CancelCounts, frozen=True, kw_only=True):
    """A run after a request to cancel it. No more messages can be published in it."""

    run: RunName


_RUN = "20261121-072613-24a5b446cc10"
_UUID = Parameter(name="uuid", where="path", description="the message id", example=f"{_RUN}.0", required=True)
_NAME = Parameter(
    name="run", where="path", description="the run's name", kind=RunName, example=_RUN, required=True
)


class Cancels:
    """Cancels messages and runs."""

    def __init__(self, ledger: Ledger, tracker: Tracker, owners: Owners) -> None:
        self._ledger = ledger
        self._owners = owners
        self._cancellation = Cancellation(ledger, tracker)

    def operations(self) -> list[Operation]:
        """The endpoints."""
        message = MessageCanceled(
            uuid=f"{_RUN}.0", status=Status.CANCELED, canceled=1, sending=0, sent=0, failed=0
        )
        run = RunCanceled(run=_RUN, canceled=200, sending=100, sent=630, failed=70)
        return [
            Operation(
                method="DELETE",
                path="/sms/{uuid}",
                handler=self._message,
                scope=Scope.SEND,
                tag="messages",
                summary="Cancel a message",
                description="If it is still queued it becomes canceled, which is final. Otherwise the answer has its"
                " status, and it stays as it is.",
                parameters=(_UUID,),
                answers={
                    200: Answer("Its status now", kind=MessageCanceled, example=message),
                    404: Answer("No such message"),
                },
            ),
            Operation(
                method="POST",
                path="/runs/{run}/cancel",
                handler=self._run,
                scope=Scope.SEND,
                tag="runs",
                summary="Cancel the queued messages of a run",
                description="Closes the run: a producer that still publishes it is refused.",
                parameters=(_NAME,),
                answers={
                    200: Answer("The status of its messages now", kind=RunCanceled, example=run),
                    404: Answer("No such run"),
                },
            ),
        ]

    async def _message(self, request: Request) -> Response:
        uuid = request.path_params["uuid"]
        try:
            run, seq = parts_of(uuid)
            await self._owners.check(request.state.caller, run)
            if seq >= (await self._ledger.publication(run)).announced:
                raise UnknownRun
            counts = await self._cancellation.cancel(run, np.array([seq], np.int64))
            (status,) = await statuses_of(self._ledger, run, [seq])
        except (ValueError, UnknownRun):
            raise Problem(404, "there is no message with this id") from None
        audit_done(request, canceled=counts.canceled, id=uuid)
        return json_response(MessageCanceled(uuid=uuid, status=status, **_counts(counts)))

    async def _run(self, request: Request) -> Response:
        run = request.path_params["run"]
        try:
            if not is_run_id(run):
                raise UnknownRun
            await self._owners.check(request.state.caller, run)
            counts = await self._cancellation.cancel_run(run)
        except UnknownRun:
            raise Problem(404, "there is no such run, or it was forgotten: GET /runs lists them") from None
        audit_done(request, canceled=counts.canceled, id=run)
        return json_response(RunCanceled(run=run, **_counts(counts)))


def _counts(counts: Canceled) -> dict[str, int]:
    return msgspec.structs.asdict(counts)
