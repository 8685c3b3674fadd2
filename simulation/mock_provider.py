"""A mock provider: an SMS service over HTTP that plays a profile (docs/providers.md)."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.messages import E164_PATTERN, MAX_SEQ, MAX_TEXT_CHARS, Outcome
from common.web.bodies import SMALL_BYTES, media_type, read_body
from common.web.operations import JSON
from common.web.problems import Problem
from simulation.accepted import AcceptedMessages, Record
from simulation.fates import Fate, Fates

log = logging.getLogger(__name__)


class Sms(msgspec.Struct, frozen=True, gc=False):
    """The body of a request: one message in one attempt.

    Attributes:
        id: The message id, `<run>.<seq>`.
        to: The number, in E.164 form.
        text: The text.
        attempt: The number of the attempt, from 1.
    """

    id: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,40}\.(0|[1-9][0-9]{0,12})\Z")]
    to: Annotated[str, msgspec.Meta(pattern=rf"^{E164_PATTERN}\Z")]
    text: Annotated[str, msgspec.Meta(max_length=MAX_TEXT_CHARS)]
    attempt: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1

    def __post_init__(self) -> None:
        if self.seq >= MAX_SEQ:
            raise ValueError(f"seq must be below {MAX_SEQ} - at `$.id`")

    @property
    def run(self) -> str:
        """The run in its id."""
        return self.id.partition(".")[0]

    @property
    def seq(self) -> int:
        """The seq in its id."""
        return int(self.id.partition(".")[2])


class Stats(msgspec.Struct):
    """Counters of the requests with a body.

    Attributes:
        requests: All requests, those in progress included.
        accepted: Requests that were answered 200.
        distinct: Accepted requests with an id that was not accepted before.
        repeated: Accepted requests with an id that was accepted before.
        refused: Requests with any other answer.
    """

    requests: int = 0
    accepted: int = 0
    distinct: int = 0
    repeated: int = 0
    refused: int = 0


class MockProvider:
    """Accepts and refuses messages by their fates, and remembers those it accepted.

    With a record, each accepted send is written there before it is answered.
    """

    def __init__(
        self,
        fates: Fates,
        record: Record | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.stats = Stats()
        self._fates = fates
        self._record = record
        self._sleep = sleep
        self._accepted = AcceptedMessages()
        self._decode = msgspec.json.Decoder(Sms).decode

    def app(self) -> Starlette:
        """Its HTTP API."""
        return Starlette(
            routes=[
                Route("/sms", self._post_sms, methods=["POST"]),
                Route("/stats", self._get_stats),
                Route("/stats", self._delete_stats, methods=["DELETE"]),
                Route("/health", self._get_health),
            ]
        )

    def close(self) -> None:
        """Closes the record."""
        if self._record is not None:
            self._record.close()
            self._record = None

    async def _post_sms(self, request: Request) -> Response:
        try:
            media_type(request, JSON)
            body = await read_body(request, SMALL_BYTES)
        except Problem as problem:
            return problem.response()
        self.stats.requests += 1
        try:
            sms = self._decode(body)
        except UnicodeError:  # its text quotes the body
            return self._refuse(HTTPStatus.BAD_REQUEST, error="not UTF-8")
        except (msgspec.MsgspecError, RecursionError) as error:
            return self._refuse(HTTPStatus.BAD_REQUEST, error=str(error))
        fate = self._fates.of(sms.run, sms.seq, sms.attempt)
        if fate.time_s:
            await self._sleep(fate.time_s)
        if fate.outcome is Outcome.SENT:
            return self._accept(sms)
        return self._refuse_by(fate, sms)

    def _accept(self, sms: Sms) -> Response:
        try:
            if self._record is not None:
                self._record.append(sms.id, sms.attempt)
        except OSError as error:
            # An accepted message that is not on the record would make the record useless.
            log.error("record_failed", extra={"reason": error.strerror})
            return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, id=sms.id, error="no record")
        repeated = not self._accepted.add(sms.run, sms.seq)
        self.stats.accepted += 1
        self.stats.distinct += not repeated
        self.stats.repeated += repeated
        return _json(HTTPStatus.OK, {"id": sms.id, "repeated": repeated})

    def _refuse_by(self, fate: Fate, sms: Sms) -> Response:
        """The response to a message that is not accepted."""
        if fate.outcome is Outcome.FAILED:
            return self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, id=sms.id, error="failed finally")
        if not fate.retry_after_s:
            return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, id=sms.id, error="failed temporarily")
        response = self._refuse(HTTPStatus.TOO_MANY_REQUESTS, id=sms.id, error="too many")
        wait_s = math.ceil(fate.retry_after_s)
        response.headers["Retry-After"] = str(wait_s)
        return response

    def _refuse(self, status: HTTPStatus, **body: str) -> Response:
        self.stats.refused += 1
        return _json(status, body)

    async def _get_stats(self, _: Request) -> Response:
        return _json(HTTPStatus.OK, self.stats)

    async def _delete_stats(self, _: Request) -> Response:
        self.stats = Stats()
        self._accepted.clear()
        self._fates.restart_runs()
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _get_health(self, _: Request) -> Response:
        return _json(HTTPStatus.OK, {"healthy": True})


def _json(status: HTTPStatus, body: Any) -> Response:
    encoded = msgspec.json.encode(body)
    return Response(encoded, status, media_type=JSON)
