"""The transport that uvicorn's protocol sees: the client's, by way of its `Connection`."""

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.web.connection import Connection


class InnerTransport(asyncio.Transport):
    """Writes and closes through the connection, which counts and has the last word."""

    def __init__(self, connection: "Connection", transport: asyncio.Transport) -> None:
        super().__init__()
        self._connection = connection
        self._transport = transport
        self._detached = False

    def detach(self) -> None:
        """The protocol has no part in the connection any more."""
        self._detached = True

    def write(self, data: Any) -> None:
        if not self._detached:
            self._connection.write(data)

    def close(self) -> None:
        if not self._detached:
            self._connection.close()

    def abort(self) -> None:
        if not self._detached:
            self._transport.abort()

    def is_closing(self) -> bool:
        return self._detached or self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        if not self._detached:
            self._connection.pause_reading(self)

    def resume_reading(self) -> None:
        if not self._detached:
            self._connection.resume_reading(self)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._connection.upgrade_to(protocol)
