"""What the gateway is compared with: `python -m studies.gateway.bare KEY` serves two applications until SIGTERM.

Both run on the gateway's own uvicorn settings, and answer a POST to /sms at once with 202 and a constant JSON. `bare`
is a Starlette route and nothing else; `wrapped` has around it what the gateway has around each operation: host and
origin, API key, deadline and metrics. Prints the two ports as a JSON object.
"""

import json
import sys

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.broker.memory import MemoryBroker
from common.cli import run_command, stop_on_signals
from common.sms.segments import Segments
from common.tracking.port import Status
from common.web.guard import Guard
from common.web.keys.authenticator import Authenticator
from common.web.keys.memory import MemoryApiKeys
from common.web.operations import JSON, Answer, Operation, Scope
from common.web.routing import routes_of
from common.web.server import serving
from gateway.api.metrics import GatewayMetrics
from gateway.api.schemas import Accepted

HOST = "127.0.0.1"
ANSWER = msgspec.json.encode(
    Accepted("20261121-072613-9f3a.0", "+541166587382", "hello", Status.QUEUED, Segments("GSM-7", 1, 5))
)


async def nothing(_: Request) -> Response:
    """Answers at once; the body is not even read."""
    return Response(ANSWER, 202, media_type=JSON)


def bare() -> Starlette:
    """The framework alone."""
    return Starlette(routes=[Route("/sms", nothing, methods=["POST"])])


def wrapped(key: str) -> Guard:
    """With all that the gateway does for any request."""
    operation = Operation("POST", "/sms", nothing, Scope.SEND, "", "", {202: Answer("")})
    observe = GatewayMetrics(MemoryBroker()).observe
    routes = routes_of([operation], Authenticator(MemoryApiKeys(), True, key), observe)
    return Guard(Starlette(routes=routes), None, frozenset())


async def _serve() -> int:
    stop = stop_on_signals()
    async with serving(bare(), HOST, 0) as first, serving(wrapped(sys.argv[1]), HOST, 0) as second:
        print(json.dumps({"bare": first, "wrapped": second}), flush=True)
        await stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(run_command("studies.gateway.bare", _serve))
