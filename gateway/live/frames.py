"""Events on the wire: WebSocket messages and Server-Sent Events, encoded once for all clients that see the same."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

# Clients commonly refuse messages over 1 MiB, and a frame this size is written while others wait.
FRAME_BYTES = 64 * 1024


class Encoded(NamedTuple):
    """An event.

    Attributes:
        kind: Its type.
        json: The whole event as JSON.
    """

    kind: bytes
    json: bytes


Frame = str | bytes
Join = Callable[[Sequence[Encoded]], Frame]


def websocket_message(events: Sequence[Encoded]) -> str:
    """A JSON array of the events."""
    return (b"[" + b",".join([event.json for event in events]) + b"]").decode()


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
