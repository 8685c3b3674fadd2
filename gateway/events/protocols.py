"""uvicorn's protocols, with the connection itself in the ASGI scope: `Config(http=EventHttp, ws=EventWebSocket)`.

ASGI can say neither how much waits to be written, nor "cut it off", nor "the server stops": a client that takes nothing
would keep its socket for ever, since closing waits until all is written, and open streams would hold up a shutdown. And
a send through ASGI encodes each frame anew for each client. Made for the uvicorn that poetry.lock names.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_EXTENSION = "smsim.connection"


@dataclass(slots=True)
class Connection:
    """A client's connection. `on_shutdown` is called when the server stops, by whoever has an open stream on it."""

    transport: asyncio.Transport
    on_shutdown: Callable[[], None] | None = None

    def cut_off(self) -> None:
        """Closes at once and throws away what waits, the kernel's part too."""
        its_socket: socket.socket | None = self.transport.get_extra_info("socket")
        if its_socket is not None:
            with contextlib.suppress(OSError, ValueError):  # it is closed already
                its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class EventHttp(HttpToolsProtocol):
    """HTTP/1.1."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._extensions = {_EXTENSION: {"connection": Connection(transport)}}

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        cast(dict[str, Any], self.scope)["extensions"] = self._extensions

    def shutdown(self) -> None:
        """The server stops: open streams end."""
        super().shutdown()
        _tell(self._extensions[_EXTENSION]["connection"])


class EventWebSocket(WebSocketsSansIOProtocol):
    """WebSocket."""

    _connection: Connection | None = None

    async def run_asgi(self) -> None:
        """The request for a WebSocket goes to the application."""
        self._connection = Connection(self.transport)
        cast(dict[str, Any], self.scope)["extensions"][_EXTENSION] = {"connection": self._connection}
        await super().run_asgi()

    def shutdown(self) -> None:
        """The server stops: uvicorn closes with 1012, unless whoever has the WebSocket closes it."""
        if not _tell(self._connection):
            super().shutdown()


def connection_of(scope: Mapping[str, Any]) -> Connection | None:
    """The connection that a request came by; None where the server runs without these protocols."""
    extension = (scope.get("extensions") or {}).get(_EXTENSION)
    return extension["connection"] if extension else None


def _tell(connection: Connection | None) -> bool:
    if connection is None or connection.on_shutdown is None:
        return False
    connection.on_shutdown()
    return True
