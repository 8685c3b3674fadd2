"""Carries a request out once for each Idempotency-Key (draft-ietf-httpapi-idempotency-key-header)."""

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from common.web.answers import json_answer
from common.web.flaws import refused
from common.web.operations import Parameter
from common.web.problems import Flaw, Problem
from gateway.idempotency.hold import Hold
from gateway.idempotency.port import Found, Idempotency

HEADER = "Idempotency-Key"
LONGEST_KEY = 255
BUSY_RETRY_AFTER_S = 1.0
# What a lease lasts beyond the request's own deadline.
SPARE_S = 5.0

PARAMETER = Parameter(
    HEADER,
    "header",
    "Makes it safe to send the request again: the same key gives the same answer, and nothing is sent twice."
    " Kept for a day. The same key with another request is refused with 422; while the first one is under way, 409.",
    example="8e03978e-40d5-43dd-bc93-6894a57f9324",
)

# Does the work and gives the answer's body; plans that body, if there is a hold, before anything is published.
Do = Callable[[Hold | None], Awaitable[bytes]]
# Carries out a plan that somebody else left; or, where it is void, takes it back. False if nothing came of it, and
# nothing will, so that the work is to be done anew.
Finish = Callable[[bytes, bool], Awaitable[bool]]


async def once(
    record: Idempotency, request: Request, body: bytes, deadline_s: float, do: Do, finish: Finish
) -> Response:
    """The answer 202 to a request, whether it is carried out now or was before.

    Problem 409 while another with the same key is under way, 422 for a key that stands for another request.
    """
    sent = request.headers.getlist(HEADER)
    key = sent[0] if sent else None
    if len(sent) > 1:
        raise refused([Flaw(f"header.{HEADER}", "stands there twice: send one")])
    if key is None:
        return _accepted(await do(None))
    if not key or len(key) > LONGEST_KEY:
        raise refused([Flaw(f"header.{HEADER}", f"must have 1 to {LONGEST_KEY} characters")])
    caller: str = request.state.caller.id
    token = secrets.token_hex(8)
    told = hashlib.sha256(b"%b\n%b\n%b" % (request.method.encode(), str(request.url.query).encode(), body))
    told.update(request.url.path.encode())
    lease_s = deadline_s + SPARE_S
    found = await record.reserve(caller, key, told.hexdigest(), token, lease_s)
    if found.found is Found.OTHER:
        raise refused([Flaw(f"header.{HEADER}", "came with another request before: use a new one")])
    if found.found is Found.BUSY:
        raise Problem(409, f"a request with this {HEADER} is under way", retry_after_s=BUSY_RETRY_AFTER_S)
    if found.found is Found.DONE and found.answer is not None:
        return _accepted(found.answer, replayed=True)

    hold = Hold(record, caller, key, token, lease_s)
    if found.answer is not None:
        try:
            finished = await finish(found.answer, found.found is Found.VOID)
        except Exception:
            await record.pass_on(caller, key, token)  # the plan stands, for the next try
            raise
        if finished:
            await hold.done(found.answer)
            return _accepted(found.answer, replayed=True)
    try:
        answer = await do(hold)
    except Exception:
        # Not where the request was cancelled: what becomes of it is then open. Whoever has it in hand still says so, or
        # else its lease must pass.
        await hold.leave()
        raise
    await hold.done(answer)
    return _accepted(answer)


def _accepted(body: bytes, replayed: bool = False) -> Response:
    headers: dict[str, Any] = {"Idempotent-Replayed": "true"} if replayed else {}
    return json_answer(body, 202, headers)
