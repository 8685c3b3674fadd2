"""Events on the wire: as WebSocket frames and as Server-Sent Events, encoded once for all who see the same."""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

# Clients commonly refuse messages over 1 MiB, and a frame this size is written while others wait.
FRAME_BYTES = 64 * 1024


class Encoded(NamedTuple):
    """An event: its type, and the whole of it as JSON."""

    kind: bytes
    json: bytes


Join = Callable[[Sequence[Encoded]], bytes]


def websocket_frame(events: Sequence[Encoded]) -> bytes:
    """One text frame, a JSON array of the events. RFC 6455 §5.2: a server's frames are not masked, so that the same
    bytes do for every client.
    """
    payload = b"[" + b",".join([event.json for event in events]) + b"]"
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x81, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, size) + payload
    return struct.pack("!BBQ", 0x81, 127, size) + payload


def sse_frame(events: Sequence[Encoded]) -> bytes:
    """Each event as `event:` and one line of `data:` (JSON has no line ends), as the HTML standard has it in §9.2."""
    return b"".join([b"event: %b\ndata: %b\n\n" % event for event in events])


def pieces(events: Sequence[Encoded]) -> Iterator[Sequence[Encoded]]:
    """The events in their order, in parts of about FRAME_BYTES; a larger event is a part of its own."""
    first = size = 0
    for at, event in enumerate(events):
        if at > first and size + len(event.json) > FRAME_BYTES:
            yield events[first:at]
            first, size = at, 0
        size += len(event.json)
    if first < len(events):
        yield events[first:]
