"""pika's connection, with two shorter ways: frames go out together, and whole deliveries come in at one step."""

from collections.abc import Callable
from struct import Struct
from typing import Any

from pika.adapters.asyncio_connection import AsyncioConnection

# What a direct delivery is handed to: its delivery tag, whether it was redelivered, and its body.
OnBody = Callable[[int, bool, bytes], None]

# AMQP 0-9-1, section 4.2.3: a frame is type, channel and payload size (7 bytes), the payload, and one closing byte.
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
KINDS = frozenset((METHOD, HEADER, BODY, HEARTBEAT))
FRAME_END = 0xCE
BASIC_DELIVER = b"\x00\x3c\x00\x3c"  # class 60, method 60
_FRAME = Struct(">BHL")
_HEADER = Struct(">BHLHHQ")  # the frame's head, then class, weight and the size of the body
_TAG_AND_FLAGS = Struct(">QB")
_AROUND = _FRAME.size + 1


class GatheringConnection(AsyncioConnection):  # type: ignore[misc]  # pika ships no types
    """Emits frames together at the end of the turn, and takes whole deliveries apart by itself.

    pika makes a system call and a packet of each frame, so three of each message. Together, messages published one by
    one cost the producer and RabbitMQ 30 % less CPU time (measured). `_adapter_emit_data` is what pika's adapters
    implement. What is gathered when the connection ends is dropped, as pika does with what it could not write.

    Of each delivery, too, pika makes three frames with all their fields, and copies what is left of its buffer each
    time: half of a sender's CPU time at one message a batch (measured). So a delivery to a consumer in `direct`, by
    channel number and consumer tag, whose body is one frame, goes to it at once; every other frame goes to pika.
    """

    _frame_buffer: bytes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._gathered: list[bytes] = []
        self.direct: dict[tuple[int, bytes], OnBody] = {}
        super().__init__(*args, **kwargs)

    @property
    def largest_body(self) -> int:
        """What one frame holds, in bytes."""
        return int(self._body_max_length)

    def send(self, frames: bytes) -> None:
        """Emits the frames of a message that was made elsewhere."""
        self.bytes_sent += len(frames)
        self.frames_sent += 3
        self._adapter_emit_data(frames)

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._gathered:
            self.ioloop.call_soon(self._emit)
        self._gathered.append(data)

    def _emit(self) -> None:
        data, self._gathered = b"".join(self._gathered), []
        if not self.is_closed:
            super()._adapter_emit_data(data)

    def _on_data_available(self, data_in: bytes) -> None:
        data: bytes = self._frame_buffer + data_in
        self._frame_buffer = b""
        at, end = 0, len(data)
        while end - at >= _FRAME.size:
            kind, _, size = _FRAME.unpack_from(data, at)
            if kind not in KINDS:  # a protocol header, or nonsense: pika knows
                super()._on_data_available(data[at:])
                return
            beyond = at + size + _AROUND
            if data.startswith(BASIC_DELIVER, at + _FRAME.size) and kind == METHOD and beyond <= end:
                after = self._deliver(data, at, beyond)
                if after < 0:
                    break
                if after:
                    at = after
                    continue
            if beyond > end:
                break
            super()._on_data_available(data[at:beyond])
            at = beyond
        self._frame_buffer = data[at:]

    def _deliver(self, data: bytes, at: int, header: int) -> int:
        """Hands on the delivery whose method frame is from `at` to `header`; gives where it ends.

        0 if it is one for pika, -1 if some of it has not come yet.
        """
        _, channel, _ = _FRAME.unpack_from(data, at)
        tag = at + 12
        beyond_tag = tag + data[tag - 1]
        on_body = self.direct.get((channel, data[tag:beyond_tag]))
        if on_body is None:
            return 0
        end = len(data)
        if end < header + _HEADER.size:
            return -1
        kind, same_channel, size, _, _, body_size = _HEADER.unpack_from(data, header)
        body = header + size + _AROUND
        if kind != HEADER or same_channel != channel or body_size == 0:
            return 0
        if end < body + _FRAME.size:
            return -1
        kind, same_channel, size = _FRAME.unpack_from(data, body)
        beyond: int = body + size + _AROUND
        if kind != BODY or same_channel != channel or size != body_size:
            return 0
        if end < beyond:
            return -1
        if not data[header - 1] == data[body - 1] == data[beyond - 1] == FRAME_END:
            return 0
        delivery_tag, flags = _TAG_AND_FLAGS.unpack_from(data, beyond_tag)
        self.frames_received += 3
        self.bytes_received += beyond - at
        on_body(delivery_tag, bool(flags & 1), data[body + _FRAME.size : beyond - 1])
        return beyond
