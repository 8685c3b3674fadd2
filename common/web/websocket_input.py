"""What a WebSocket client may send: the gateway needs nothing from it but pongs."""

import struct

_POLICY = 1008
_REASON = b"too much is sent here: the gateway only sends"
# A close frame, unmasked as servers send it (RFC 6455, section 5.5.1).
TOO_MUCH = b"\x88%c%b%b" % (2 + len(_REASON), struct.pack("!H", _POLICY), _REASON)


class Allowance:
    """A token bucket of bytes.

    Attributes:
        left: Bytes that may come now.
    """

    def __init__(self, burst_bytes: int, bytes_per_s: float) -> None:
        self.left = float(burst_bytes)
        self._burst_bytes = burst_bytes
        self._bytes_per_s = bytes_per_s

    def refill(self, seconds: float) -> None:
        """Time has passed."""
        self.left = min(self._burst_bytes, self.left + seconds * self._bytes_per_s)

    def take(self, size: int) -> bool:
        """Whether these bytes are allowed."""
        self.left -= size
        return self.left >= 0
