"""Routes of operations: authentication, deadline, metrics, and every error as a problem."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.audit import AuditLog, Refusal
from common.errors import Refused, Unavailable, UnknownRun
from common.web.keys.authenticator import Authenticator, claimed_id
from common.web.keys.port import Caller
from common.web.operations import RETRY_AFTER_S, Operation, Scope
from common.web.problems import Problem
from common.web.server import connection_of
from common.web.validation import invalid, repeated, unknown_names

log = logging.getLogger(__name__)

_STOPPING = (
    "the gateway is stopping, and nobody knows what became of this request: send it again when it is back, with the"
    " same Idempotency-Key if there was one"
)

# Called for each answer with the path of the operation, the method, the status and the duration in seconds.
Observe = Callable[[str, str, int, float], None]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def routes_of(
    operations: Sequence[Operation],
    authenticator: Authenticator,
    observe: Observe,
    audit: AuditLog | None = None,
) -> list[BaseRoute]:
    """A route for each path. Those with parameters come last, so that /sms/{uuid} does not match /sms/batch."""
    by_path: dict[str, dict[str, Handler]] = {}
    for operation in operations:
        endpoint = Endpoint(operation, authenticator, observe, audit)
        by_path.setdefault(operation.path, {})[operation.method] = endpoint.answer
    return [
        Route(path, _by_method(by_path[path]), methods=list(by_path[path]))
        for path in sorted(by_path, key=lambda path: "{" in path)
    ]


class Endpoint:
    """Answers the requests of one operation."""

    def __init__(
        self,
        operation: Operation,
        authenticator: Authenticator,
        observe: Observe,
        audit: AuditLog | None = None,
    ) -> None:
        self._operation = operation
        self._name = f"{operation.method} {operation.path}"
        self._audit = audit
        self._authenticator = authenticator
        self._observe = observe
        query = [parameter for parameter in operation.parameters if parameter.where == "query"]
        self._query = [parameter.name for parameter in query]
        self._once = [parameter.name for parameter in query if not parameter.many]

    async def answer(self, request: Request) -> Response:
        """The answer to a request; an exception becomes a problem."""
        began_s = time.perf_counter()
        try:
            async with asyncio.timeout(self._operation.deadline_s):
                response = await self._handle(request)
        except Exception as error:  # noqa: BLE001  # the client gets an answer, and the log has the rest
            response = problem_of(error).response()
        except asyncio.CancelledError:
            if not _is_stopping(request):
                raise
            response = Problem(503, _STOPPING, retry_after_s=RETRY_AFTER_S).response()
        time_s = time.perf_counter() - began_s
        self._observe(self._operation.path, self._operation.method, response.status_code, time_s)
        if self._audit is not None:
            audit_request(self._audit, self._name, request, response.status_code)
        return response

    async def _handle(self, request: Request) -> Response:
        scope = self._operation.scope
        if scope is not None:
            request.state.caller = await self._authenticator.authenticate(request)
            self._authenticator.require(request.state.caller, scope)
            if self._operation.of_all:
                self._authenticator.require(request.state.caller, Scope.ALL)
        if request.scope["query_string"]:
            errors = unknown_names(request.query_params, self._query, "query")
            if errors:
                raise invalid(errors)
            for name in self._once:
                if len(request.query_params.getlist(name)) > 1:
                    raise repeated(f"query.{name}")
        return await self._operation.handler(request)


def audit_done(request: HTTPConnection, **about: Any) -> None:
    """Notes what a request has done, for the audit log."""
    request.state.done = about


def audit_request(audit: AuditLog, operation: str, request: HTTPConnection, status: int) -> None:
    """Writes a request to the audit log if it was refused, or may have changed something."""
    caller: Caller | None = getattr(request.state, "caller", None)
    if status in (401, 403):
        key = caller.id if caller is not None else claimed_id(request)
        address = request.client.host if request.client is not None else None
        audit.refused(Refusal(operation, status, key), address)
    elif caller is not None and not operation.startswith("GET ") and not 400 <= status < 500:
        done = getattr(request.state, "done", {})
        audit.record("request", key=caller.id, operation=operation, status=status, **done)


async def not_served(request: Request, error: Exception) -> Response:
    """404 or 405, as a problem, for requests that no route matches."""
    assert isinstance(error, HTTPException)
    is_unknown = error.status_code == 404
    what = f"no such path: {request.url.path}" if is_unknown else f"{request.method} is not served here"
    return Problem(error.status_code, what, headers=error.headers).response()


def problem_of(error: BaseException) -> Problem:
    """The problem that answers a request which failed with this error."""
    match error:
        case Problem():
            return error
        case UnknownRun():
            return Problem(404, str(error))
        case TimeoutError():
            return _try_again("RabbitMQ or Redis did not answer in time: try again")
        case Unavailable():
            return _try_again(str(error))
        case Refused():
            log.error("server_refuses", extra={"reason": str(error)})
            return _try_again("a server that this needs refuses it: see the gateway's log")
    log.error("request_failed", exc_info=error)
    return Problem(500, "a fault of ours; it is in the log")


def _try_again(detail: str) -> Problem:
    return Problem(503, detail, retry_after_s=RETRY_AFTER_S)


def _by_method(handlers: dict[str, Handler]) -> Handler:
    """One handler for all methods of a path."""
    if len(handlers) == 1:
        return next(iter(handlers.values()))

    async def answer(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return answer


def _is_stopping(request: Request) -> bool:
    """Whether the request was cancelled because the server stops. It may be answered then."""
    connection = connection_of(request.scope)
    if connection is None or not connection.stopping:
        return False
    if (task := asyncio.current_task()) is not None:
        task.uncancel()
    return True
