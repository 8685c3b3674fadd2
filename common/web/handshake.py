"""The TLS handshake of a connection that the server has accepted in plain.

asyncio's own TLS servers tell a protocol of a connection only after the handshake. Here it counts from the beginning.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import cast


async def secure(
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    *,
    within_s: float,
    take_early: Callable[[], bytes],
) -> asyncio.Transport | None:
    """Makes the handshake; gives the transport that `protocol` has from now on, None if the client has gone.

    Raises OSError, of which ssl.SSLError and TimeoutError are. `take_early` gives the bytes that `protocol` got before
    TLS was in place: uvloop begins to read after `connection_made`, also where that has paused reading.
    """
    loop = asyncio.get_running_loop()

    def pass_early() -> None:
        _pass_bytes(take_early(), transport)

    loop.call_soon(
        loop.call_soon, pass_early
    )  # after `start_tls` has set its protocol, and told it of the connection
    return await loop.start_tls(
        transport, protocol, context, server_side=True, ssl_handshake_timeout=within_s
    )


def _pass_bytes(early: bytes, transport: asyncio.Transport) -> None:
    tls = cast(asyncio.BufferedProtocol, transport.get_protocol())
    while early and not transport.is_closing():
        buffer = memoryview(tls.get_buffer(len(early)))
        size = min(len(buffer), len(early))
        buffer[:size] = early[:size]
        tls.buffer_updated(size)
        early = early[size:]
