"""Errors as `application/problem+json` (RFC 9457): what is wrong, where, and what to do."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec
from starlette.responses import Response

from common.web.answers import json_answer

MEDIA_TYPE = "application/problem+json"


class Flaw(msgspec.Struct, frozen=True):
    """One thing wrong with a request. `where` is a path into it: `body.number`, `body[17].text`, `query.limit`."""

    where: str
    what: str


class ProblemBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every answer of 400 and above."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[Flaw] = []


class Problem(Exception):
    """Ends a request with an answer of 400 or above. `detail` says what is wrong and what to do.

    `retry_after_s` becomes the header Retry-After, in whole seconds, at least 1.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        flaws: Sequence[Flaw] = (),
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = HTTPStatus(status)
        self.detail = detail
        self.flaws = list(flaws)
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, round(retry_after_s + 0.499)))

    def response(self) -> Response:
        """The answer."""
        body = ProblemBody("about:blank", self.status.phrase, self.status.value, self.detail, self.flaws)
        return json_answer(body, self.status.value, self.headers, MEDIA_TYPE)
