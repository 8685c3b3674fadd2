"""Makes routes of operations: who may, how long, and every error as a problem."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from common.errors import Refused, Unavailable, UnknownRun
from common.web.keys.authenticator import Authenticator
from common.web.operations import RETRY_AFTER_S, Operation
from common.web.problems import Problem
from common.web.server import connection_of
from common.web.validation import invalid, unknown_names

log = logging.getLogger(__name__)

_STOPPING = (
    "the gateway is stopping, and what became of this request is not known: ask again when it is back, with the same"
    " Idempotency-Key if there was one"
)

# Hears of each answer: path template, method, status, seconds.
Observe = Callable[[str, str, int, float], None]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def routes_of(
    operations: Sequence[Operation], authenticator: Authenticator, observe: Observe
) -> list[BaseRoute]:
    """A route for each path; those without parameters first, so that /sms/batch is not taken for a message's id."""
    by_path: dict[str, dict[str, Handler]] = {}
    for operation in operations:
        handlers = by_path.setdefault(operation.path, {})
        handlers[operation.method] = _endpoint(operation, authenticator, observe)
    return [
        Route(path, _by_method(by_path[path]), methods=list(by_path[path]))
        for path in sorted(by_path, key=lambda path: "{" in path)
    ]


def _by_method(handlers: dict[str, Handler]) -> Handler:
    if len(handlers) == 1:
        return next(iter(handlers.values()))

    async def endpoint(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return endpoint


def _endpoint(operation: Operation, authenticator: Authenticator, observe: Observe) -> Handler:
    known = [parameter.name for parameter in operation.parameters if parameter.where == "query"]

    async def endpoint(request: Request) -> Response:
        began_s = time.perf_counter()
        try:
            async with asyncio.timeout(operation.deadline_s):
                if operation.scope is not None:
                    request.state.caller = await authenticator.authenticate(request)
                    authenticator.require(request.state.caller, operation.scope)
                if request.scope["query_string"] and (
                    errors := unknown_names(request.query_params, known, "query")
                ):
                    raise invalid(errors)
                response = await operation.handler(request)
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer, and the log the rest
            response = problem_of(error).response()
        except asyncio.CancelledError:
            if not _stopping(request):
                raise
            response = Problem(503, _STOPPING, retry_after_s=RETRY_AFTER_S).response()
        observe(operation.path, operation.method, response.status_code, time.perf_counter() - began_s)
        return response

    return endpoint


def _stopping(request: Request) -> bool:
    """Whether a cancelled request is one that the server's end has left no time. It may be answered then."""
    connection = connection_of(request.scope)
    if connection is None or not connection.stopping:
        return False
    if (task := asyncio.current_task()) is not None:
        task.uncancel()
    return True


async def not_served(request: Request, error: Exception) -> Response:
    """What the router has no operation for, as a problem: 404 or 405."""
    assert isinstance(error, HTTPException)
    what = (
        f"no such path: {request.url.path}"
        if error.status_code == 404
        else f"{request.method} is not served here"
    )
    return Problem(error.status_code, what, headers=error.headers).response()


def problem_of(error: BaseException) -> Problem:
    """What a request is answered that ended with this error."""
    match error:
        case Problem():
            return error
        case UnknownRun():
            return Problem(404, str(error))
        case TimeoutError():
            return Problem(
                503, "RabbitMQ or Redis did not answer in time: try again", retry_after_s=RETRY_AFTER_S
            )
        case Unavailable():
            return Problem(503, str(error), retry_after_s=RETRY_AFTER_S)
        case Refused():
            log.error("server_refuses", extra={"reason": str(error)})
            return Problem(
                503, "a server that this needs refuses it: see the gateway's log", retry_after_s=RETRY_AFTER_S
            )
    log.error("request_failed", exc_info=error)
    return Problem(500, "a fault of ours; it is in the log")
