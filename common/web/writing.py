"""What is written to a client, and whether the client reads it."""

import asyncio


class Writing:
    """The way to one client. `beneath` is what TLS writes to, if the way has that.

    Attributes:
        written: Bytes since the client connected.
        paused: Much waits to be written: answers to further requests would only wait behind it.
    """

    def __init__(
        self, transport: asyncio.Transport, now_s: float, beneath: asyncio.Transport | None = None
    ) -> None:
        self.written = 0
        self.paused = False
        self._transport = transport
        self._beneath = beneath
        self._taken = 0
        self._since_s = now_s

    def write(self, data: bytes) -> None:
        """Writes to the client."""
        self.written += len(data)
        self._transport.write(data)

    @property
    def waiting(self) -> int:
        """Bytes that the client has not taken, and the kernel neither."""
        waiting = self._transport.get_write_buffer_size()
        return waiting if self._beneath is None else waiting + self._beneath.get_write_buffer_size()

    def stalled_s(self, now_s: float) -> float:
        """For how long the client has taken nothing, while something waited."""
        waiting = self.waiting
        taken = self.written - waiting
        if not waiting or taken != self._taken:
            self._taken, self._since_s = taken, now_s
        return now_s - self._since_s
