"""The fast lane of POST /sms: the common request, served from the connection without ASGI and without a task.

It checks, counts and answers as the ordinary way does. A request that it would not accept, or that has anything unusual
about it, goes the ordinary way, which finds the words for the answer.
"""

import asyncio
import time
from functools import partial
from typing import Protocol

from common.audit import AuditLog
from common.web.fast_lane import Respond
from common.web.guard import Guard
from common.web.keys.authenticator import Authenticator
from common.web.keys.port import Caller
from common.web.operations import DEADLINE_S, JSON, Scope
from common.web.problems import Problem
from common.web.requests import Head
from common.web.responses import encoded, status_line
from common.web.routing import Observe, problem_of
from gateway.acceptance.port import IdempotencyKey
from gateway.acceptance.receipts import KEY_HEADER, Receipt
from gateway.api.idempotency import REPLAYED, Target, key_of
from gateway.api.schemas import SmsIn

TARGET = Target("POST", "/sms")
OPERATION = f"{TARGET.method} {TARGET.path}"
LARGEST_BODY_BYTES = 32 * 1024

_CONTENT_TYPES = frozenset({b"application/json", b"application/json; charset=utf-8"})
_KEY_FIELD = KEY_HEADER.lower().encode()
_REPLAYED = b"%b: true\r\n" % REPLAYED.lower().encode()
_UNUSUAL = frozenset({b"connection", b"content-encoding", b"expect", b"origin", b"transfer-encoding"})


class Messages(Protocol):
    """What accepts single messages; raises and fails with Problem."""

    def checked(self, body: bytes) -> SmsIn:
        """The message in a body."""

    def submit(self, sms: SmsIn, caller: Caller, key: IdempotencyKey | None) -> "asyncio.Future[Receipt]":
        """Hands a message in."""

    def accepted(self, receipt: Receipt, sms: SmsIn, caller: Caller) -> bytes:
        """Counts an accepted message; gives the body of its answer."""


class FastLane:
    """Serves POST /sms between the server's connections and `messages`.

    Attributes:
        deadline_s: How long a request may take.
    """

    def __init__(
        self,
        messages: Messages,
        authenticator: Authenticator,
        guard: Guard,
        observe: Observe,
        audit: AuditLog | None = None,
    ) -> None:
        self._audit = audit
        self.deadline_s = DEADLINE_S
        self._messages = messages
        self._authenticator = authenticator
        self._guard = guard
        self._observe = observe
        self._accepted_line = status_line(202)
        self._fields = b"content-type: %b\r\n%b\r\n" % (JSON.encode(), guard.added_fields())

    def wants(self, head: Head) -> bool:
        """Whether the head is that of a common POST /sms."""
        return (
            head.method == b"POST"
            and head.target == b"/sms"
            and head.keep_alive
            and not head.repeats
            and 0 < (head.length or 0) <= LARGEST_BODY_BYTES
            and head.fields.get(b"content-type") in _CONTENT_TYPES
            and _UNUSUAL.isdisjoint(head.fields)
        )

    def serve(self, head: Head, body: bytes, respond: Respond) -> "asyncio.Future[Receipt] | None":
        """Submits the message; None if it is to go the ordinary way."""
        began_s = time.perf_counter()
        caller = self._authenticator.recognise(head.fields)
        if caller is None or Scope.SEND not in caller.scopes or not self._guard.serves(head.fields):
            return None
        try:
            sms = self._messages.checked(body)
            receipt = self._messages.submit(sms, caller, _key_of(head, caller, sms))
        except Problem:
            return None
        answer = partial(self._answer, sms=sms, caller=caller, respond=respond, began_s=began_s)
        receipt.add_done_callback(answer)
        return receipt

    def _answer(
        self,
        receipt: "asyncio.Future[Receipt]",
        *,
        sms: SmsIn,
        caller: Caller,
        respond: Respond,
        began_s: float,
    ) -> None:
        """Answers once the message is accepted, or is not.

        A cancelled receipt was too late, or its client has gone: that is no answer, and is not counted as one.
        """
        status, done = 202, {}
        try:
            accepted = receipt.result()
            self._accept(accepted, sms, caller, respond)
            done = {"messages": 0 if accepted.is_replayed else 1, "id": accepted.id}
        except asyncio.CancelledError:
            status = self._fail(TimeoutError(), respond)
        except Exception as error:  # noqa: BLE001  # the client gets an answer
            status = self._fail(error, respond)
        if self._audit is not None and not 400 <= status < 500:
            about = {"key": caller.id, "operation": OPERATION, "status": status or None}
            self._audit.record("request", **about, **done)
        if status == 0:
            return
        self._observe(TARGET.path, TARGET.method, status, time.perf_counter() - began_s)

    def _accept(self, receipt: Receipt, sms: SmsIn, caller: Caller, respond: Respond) -> None:
        body = self._messages.accepted(receipt, sms, caller)
        respond(self._accepted_line, _accepted_fields(receipt, len(body) + 1) + self._fields + body + b"\n")

    def _fail(self, error: Exception, respond: Respond) -> int:
        """Answers with the problem of an error; 0 if the client has gone."""
        problem = problem_of(error)
        status = problem.status.value
        got = respond(status_line(status), encoded(problem.response(), self._guard.added_fields()))
        return status if got else 0


def _key_of(head: Head, caller: Caller, sms: SmsIn) -> IdempotencyKey | None:
    """Raises Problem 422."""
    key = head.fields.get(_KEY_FIELD)
    if key is None:
        return None
    return key_of([key.decode("latin-1")], caller=caller.id, target=TARGET, said=sms)


def _accepted_fields(receipt: Receipt, length: int) -> bytes:
    """The header fields that differ from one accepted message to the next."""
    replayed = _REPLAYED if receipt.is_replayed else b""
    return b"location: /sms/%b\r\n%bcontent-length: %d\r\n" % (receipt.id.encode(), replayed, length)
