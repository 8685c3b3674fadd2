"""Hostile clients of a gateway. Each attack is a coroutine that goes on until it is cancelled.

Each runs as a process of its own. It competes with the gateway for the machine, as a foreign client would not.
"""

import asyncio
import base64
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from common.cli import run_command
from common.open_files import raise_file_limit


@dataclass(frozen=True)
class Target:
    """The gateway under attack.

    Attributes:
        port: On 127.0.0.1.
        key: An API key for everything.
    """

    port: int
    key: str

    def head(self, line: str, *fields: str) -> bytes:
        """The head of a request with the key."""
        lines = [f"{line} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {self.key}", *fields]
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)


Attack = Callable[[Target], Awaitable[None]]


async def idle_connections(target: Target) -> None:
    """1,000 connections that send nothing, opened again when they are closed."""
    await _by_many(1_000, target, _stay)


async def half_heads(target: Target) -> None:
    """1,000 heads of 60 kB that never end, by a byte a second."""

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 60_000)
        while not reader.at_eof():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(1)

    await _by_many(1_000, target, trickle)


async def many_fields(target: Target) -> None:
    """60 connections that send heads of 60,000 fields."""
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"a:b\r\n" * 60_000 + b"\r\n"
    await _by_many(60, target, _sends([head]))


async def pipelines(target: Target) -> None:
    """5 connections that send 29 MB of pipelined requests, and read the answers."""
    request = target.head("GET /health")
    await _by_many(5, target, _sends([request * 500] * (29_000_000 // len(request) // 500)))


async def unread_pipelines(target: Target) -> None:
    """50 connections that ask for large documents without a key, and read nothing."""
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    await _by_many(50, target, _sends([request * 500], reads=False))


async def unread_inboxes(target: Target) -> None:
    """20 connections that ask for the whole inbox, and read nothing."""
    await _by_many(20, target, _sends([target.head("GET /inbox?limit=10000")] * 8, reads=False))


async def unread_messages(target: Target) -> None:
    """50 connections that send messages in a pipeline, and read no answer."""
    body = json.dumps({"number": "+541166587382", "text": "hello"})
    fields = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    request = target.head("POST /sms", *fields) + body.encode()
    await _by_many(50, target, _sends([request * 1_000] * 100, reads=False))


async def unread_batches(target: Target) -> None:
    """4 connections that send batches of 100,000, and do not read the ids."""
    items = ",".join(['{"number":"+541166587382","text":"hello"}'] * 100_000).encode()
    body = b"[" + items + b"]"
    head = target.head("POST /sms/batch", "Content-Type: application/json", f"Content-Length: {len(body)}")
    await _by_many(4, target, _sends([head, body], reads=False, pause_s=3.0))


async def dear_texts(target: Target) -> None:
    """4 connections that send batches of long texts of euro signs."""
    items = ",".join([json.dumps({"number": "+541166587382", "text": "€" * 1_600})] * 3_000).encode()
    body = b"[" + items + b"]"
    head = target.head("POST /sms/batch", "Content-Type: application/json", f"Content-Length: {len(body)}")
    await _by_many(4, target, _sends([head, body]))


async def pings(target: Target) -> None:
    """20 WebSockets that send pings as fast as they can."""
    ping = b"\x89\x80\x00\x00\x00\x00" * 1_000

    async def ping_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_handshake(target))
        await reader.readuntil(b"\r\n\r\n")
        reading = asyncio.create_task(_read_all(reader))
        try:
            while not reading.done():
                writer.write(ping)
                await writer.drain()
                await asyncio.sleep(0)
        finally:
            reading.cancel()

    await _by_many(20, target, ping_on)


async def no_requests(target: Target) -> None:
    """5 connections that send nonsense, connect again and send nonsense."""
    await _by_many(5, target, _sends([b"nonsense\r\n\r\n"]))


async def refused_websockets(target: Target) -> None:
    """5 clients that ask for a WebSocket with a wrong key, and again."""
    handshake = _handshake(Target(target.port, "no-such-key"))
    await _by_many(5, target, _sends([handshake]))


async def no_utf8(target: Target) -> None:
    """5 WebSockets that send a text that is no UTF-8, and again."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_handshake(target))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x81\x82\x00\x00\x00\x00\xff\xfe")
        await _read_all(reader)

    await _by_many(5, target, say)


async def slow_bodies(target: Target) -> None:
    """500 bodies of POST /sms that come by a byte a second."""
    fields = ("Content-Type: application/json", "Content-Length: 32000", "Expect: 100-continue")

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(target.head("POST /sms", *fields))
        reading = asyncio.create_task(_read_all(reader))
        try:
            while not reading.done():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(1)
        finally:
            reading.cancel()

    await _by_many(500, target, trickle)


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        idle_connections,
        half_heads,
        many_fields,
        pipelines,
        unread_pipelines,
        unread_inboxes,
        unread_messages,
        unread_batches,
        dear_texts,
        pings,
        no_requests,
        refused_websockets,
        no_utf8,
        slow_bodies,
    )
}


Session = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _by_many(connections: int, target: Target, session: Session) -> None:
    """Holds sessions on many connections; a session that ends begins again."""

    async def again_and_again() -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await target.connect()
                try:
                    await session(reader, writer)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.001)

    await asyncio.gather(*(again_and_again() for _ in range(connections)))


def _sends(parts: list[bytes], *, reads: bool = True, pause_s: float = 0.0) -> Session:
    """A session that sends these parts, and then waits for the end, or for some time."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not reads:
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it
        reading = asyncio.create_task(_read_all(reader)) if reads else None
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            if pause_s:
                await asyncio.sleep(pause_s)
            elif reading is not None:
                await asyncio.wait({reading}, timeout=30)
            else:
                await _stay(reader, writer)
        finally:
            if reading is not None:
                reading.cancel()

    return send


async def _stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Waits until the connection is closed."""
    await writer.wait_closed() if writer.transport.is_closing() else await reader.read()


async def _read_all(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(1 << 16):
            pass


def _handshake(target: Target) -> bytes:
    nonce = base64.b64encode(os.urandom(16)).decode()
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    return target.head("GET /events", *fields, f"Sec-WebSocket-Key: {nonce}")


async def _main() -> int:
    name, port, key = sys.argv[1:]
    raise_file_limit()
    await ATTACKS[name](Target(int(port), key))
    return 0


if __name__ == "__main__":
    sys.exit(run_command("studies.gateway.attacks", _main))
