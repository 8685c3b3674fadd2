"""The fast lane of a server: serves one kind of request from the connection, without ASGI."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from common.web.requests import Head

# Writes an answer: its status line, and what follows the date. False if the client has gone.
Respond = Callable[[bytes, bytes], bool]


class FastLane(Protocol):
    """Serves one kind of request without ASGI. Unusual requests go the ordinary way.

    Attributes:
        deadline_s: How long a request may take.
    """

    deadline_s: float

    def wants(self, head: Head) -> bool:
        """Whether this may be a request for it, once its body is there."""

    def serve(self, head: Head, body: bytes, respond: Respond) -> "asyncio.Future[Any] | None":
        """Begins to serve a request; None if it has to go the ordinary way.

        Calls `respond` once, with the status line and with what follows the date. Cancelling the future gives the
        request up: its client has gone, or its deadline has passed, which is the answer then.
        """
