"""The route that the gateway is compared with: it answers at once with 202 and a constant, and reads no body.

Run by `uvicorn studies.gateway.bare:app`.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


async def answer(_: Request) -> Response:
    """An answer of the size of the gateway's."""
    return JSONResponse(
        {
            "uuid": "20261121-072613-9f3a.0",
            "number": "+541166587382",
            "text": "hello",
            "status": "queued",
            "segments": {"encoding": "GSM-7", "count": 1, "length": 5},
        },
        status_code=202,
    )


app = Starlette(routes=[Route("/sms", answer, methods=["POST"])])
