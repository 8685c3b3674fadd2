"""A crowd of WebSocket clients in a process of its own: `python -m tests.gateway.crowd PORT CLIENTS EVENTS PORTION`.

Raw sockets, so that the crowd is no slower than it must be; it checks each frame. Prints a line once all are connected,
one each time that all have heard another portion of the message events, and at the end one of JSON: what each client
heard, and what was wrong.
"""

import asyncio
import json
import sys
from collections import Counter
from typing import cast

import msgspec
import uvloop

REQUEST = (
    b"GET /events HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class _Event(msgspec.Struct):
    type: str
    uuid: str = ""
    status: str = ""


WHOLE_TEXT, PING, PONG = 0x81, 0x89, 0x8A

_decode = msgspec.json.Decoder(list[_Event]).decode


class Ear(asyncio.Protocol):
    """One client, until it has heard so many message events and then statistics."""

    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self._data = b""
        self._open = False
        self._transport: asyncio.WriteTransport | None = None
        self.heard: set[tuple[str, str]] = set()
        self.messages = self.statistics = self.frames = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._open:
            head, found, self._data = self._data.partition(b"\r\n\r\n")
            if not found:
                self._data = head
                return
            self._open = True
            if not head.startswith(b"HTTP/1.1 101"):
                self._crowd.wrong["refused"] += 1
            self._crowd.opened()
        self._take_frames()

    def _take_frames(self) -> None:
        data, at = self._data, 0
        while len(data) - at >= 2:
            size, head = data[at + 1], 2
            if size >= 126:
                head = 4 if size == 126 else 10
                if len(data) - at < head:
                    break
                size = int.from_bytes(data[at + 2 : at + head], "big")
            if len(data) - at < head + size:
                break
            self._take(data[at], data[at + head : at + head + size])
            at += head + size
        self._data = data[at:]

    def _take(self, first: int, payload: bytes) -> None:
        if first == PING:
            # What a client sends is masked; with a mask of zeros it stays as it is.
            assert self._transport is not None
            self._transport.write(bytes((PONG, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
            return
        if first != WHOLE_TEXT:
            self._crowd.wrong[f"frame {first:#x}: {payload[2:].decode(errors='replace')}"] += 1
            return
        self.frames += 1
        for event in _decode(payload):
            if event.type == "message":
                self.messages += 1
                self.heard.add((event.uuid, event.status))
                if self.messages % self._crowd.portion == 0:
                    self._crowd.heard_portion(self.messages)
            elif event.type == "statistics":
                self.statistics += 1
                if self.messages >= self._crowd.events:
                    self._crowd.done(self)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._crowd.over.is_set():
            self._crowd.wrong["lost"] += 1
            self._crowd.over.set()


class Crowd:
    """All clients."""

    def __init__(self, clients: int, events: int, portion: int) -> None:
        self.clients, self.events, self.portion = clients, events, portion
        self.wrong: Counter[str] = Counter()
        self.over = asyncio.Event()
        self._opened = 0
        self._heard: Counter[int] = Counter()
        self._done: set[Ear] = set()

    def opened(self) -> None:
        self._opened += 1
        if self._opened == self.clients:
            _say("connected")

    def heard_portion(self, messages: int) -> None:
        self._heard[messages] += 1
        if self._heard[messages] == self.clients:
            _say(f"heard {messages}")

    def done(self, ear: Ear) -> None:
        self._done.add(ear)
        if len(self._done) == self.clients:
            self.over.set()

    async def listen(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        ears = []
        for _ in range(self.clients):
            _, ear = await loop.create_connection(lambda: Ear(self), "127.0.0.1", port)
            ears.append(ear)
        await self.over.wait()
        report = {
            "done": len(self._done),
            "messages": [min(e.messages for e in ears), max(e.messages for e in ears)],
            "different": [min(len(e.heard) for e in ears), max(len(e.heard) for e in ears)],
            "statistics": min(e.statistics for e in ears),
            "frames": sum(e.frames for e in ears),
            "wrong": self.wrong,
        }
        _say(json.dumps(report))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main() -> None:
    port, clients, events, portion = map(int, sys.argv[1:])
    await Crowd(clients, events, portion).listen(port)


if __name__ == "__main__":
    uvloop.run(main())
