"""Errors as `application/problem+json` (RFC 9457): what is wrong, where, and what to do."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec
from starlette.responses import Response

from common.web.responses import json_response

MEDIA_TYPE = "application/problem+json"


class FieldError(msgspec.Struct, frozen=True):
    """One error in a request.

    Attributes:
        where: A path into the request: `body.number`, `body[17].text`, `query.limit`.
        what: What is wrong there.
    """

    where: str
    what: str


class ProblemBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every answer of 400 and above.

    Attributes:
        type: Always `about:blank`: the kind of problem is the status.
        title: The phrase of the status.
        status: The HTTP status.
        detail: What is wrong, and what to do.
        errors: Every error in the request, up to a limit.
    """

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


class Problem(Exception):
    """Ends a request with an answer of 400 or above.

    Attributes:
        status: The HTTP status.
        detail: What is wrong, and what to do.
        errors: Every error in the request.
        headers: Header fields of the answer; `retry_after_s` becomes Retry-After, in whole seconds, at least 1.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[FieldError] = (),
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = HTTPStatus(status)
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, round(retry_after_s + 0.499)))

    def response(self) -> Response:
        """The answer."""
        body = ProblemBody("about:blank", self.status.phrase, self.status.value, self.detail, self.errors)
        return json_response(body, self.status.value, self.headers, MEDIA_TYPE)
