"""A TCP relay that simulates network faults between a client and a server."""

import asyncio
import contextlib
import re
import socket
import struct
from collections import Counter
from collections.abc import Container, Mapping

from tests.runners import free_port

_CHUNK_BYTES = 65_536
# Closes with a reset, as a firewall that forgot the connection does.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Relays its own port to a server. Its attributes take effect on all connections at once.

    Attributes:
        port: The port that clients connect to.
        upstream: The host and port that new connections are relayed to.
        delay_s: How long each piece of data is delayed, in both directions.
        bytes_per_s: The bandwidth of each connection, in both directions; 0 is unlimited.
        refusing: Whether new connections are reset at once.
        loss: Which answers are lost.
    """

    host = "127.0.0.1"

    def __init__(self, host: str, port: int) -> None:
        self.upstream = (host, port)
        self.port = free_port()
        self.delay_s = 0.0
        self.bytes_per_s = 0
        self.refusing = False
        self.loss: LostAnswers | None = None
        self._passes = asyncio.Event()
        self._passes.set()
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._links)

    async def open(self) -> None:
        """Starts listening."""
        self._server = await asyncio.start_server(self._serve, self.host, self.port, limit=_CHUNK_BYTES)

    async def close(self) -> None:
        """Stops listening and ends all connections."""
        self.refusing = True
        self.mend()
        if self._server is not None:
            self._server.close()
        self.cut()
        while self._links:
            await asyncio.sleep(0)

    def cut(self) -> int:
        """Resets all connections and returns their number."""
        for link in self._links:
            link.reset()
        return len(self._links)

    def silence(self) -> None:
        """Stops all data without closing a connection, until `mend`."""
        self._passes.clear()

    def mend(self) -> None:
        """The network is well again."""
        self.delay_s, self.bytes_per_s = 0.0, 0
        self._passes.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        if self.refusing:
            link.reset()
            return
        self._links.add(link)
        try:
            async with asyncio.timeout(5):
                up_reader, up_writer = await asyncio.open_connection(*self.upstream, limit=_CHUNK_BYTES)
            link.ends.append(up_writer)
            await asyncio.gather(
                self._carry(reader, up_writer, link, to_server=True),
                self._carry(up_reader, writer, link, to_server=False),
            )
        except (OSError, TimeoutError):
            pass  # either side has closed; the other follows
        finally:
            link.reset()
            self._links.discard(link)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: "_Link", to_server: bool
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            if self.loss is not None:
                if to_server:
                    link.asked = self.loss.due(data) or link.asked
                elif link.asked and self.loss.strikes(link.asked, data):
                    raise ConnectionResetError("the answer is lost")
                else:
                    link.asked = None
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.bytes_per_s:
                await asyncio.sleep(len(data) / self.bytes_per_s)
            await self._passes.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError("one side has closed")


class _Link:
    """A client's connection, and the connection to the server on its behalf."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.ends = [client]
        self.asked: str | None = None  # the kind of the pending request, if its answer is to be lost

    def reset(self) -> None:
        for end in self.ends:
            if not end.transport.is_closing():
                with contextlib.suppress(OSError):
                    end.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
                    )
            end.transport.abort()


class LostAnswers:
    """Loses answers to requests to Redis: the first of each kind, then one in `every`.

    Redis has executed a request whose answer is lost; errors pass. Expects a client that sends one command at a time,
    as the ledger does. `scripts` has the name of each script by its SHA-1; another command's kind is its own name;
    `kinds` are the kinds whose answers are lost.
    """

    _COMMAND = re.compile(rb"\*\d+\r\n\$\d+\r\n([A-Za-z]+)\r\n(?:\$40\r\n([0-9a-f]{40})\r\n)?")

    def __init__(self, scripts: Mapping[str, str], kinds: Container[str], every: int) -> None:
        self._scripts = scripts
        self._kinds = kinds
        self._every = every
        self._waits: Counter[str] = Counter()  # how many answers of a kind pass before the next is lost
        self.lost: Counter[str] = Counter()

    def due(self, request: bytes) -> str | None:
        """The kind of this request, if answers of its kind are lost."""
        found = self._COMMAND.match(request)
        if found is None:
            return None
        kind = found[1].decode().lower()
        if kind == "evalsha" and found[2]:
            kind = self._scripts.get(found[2].decode(), "")
        if kind not in self._kinds:
            return None
        if self._waits[kind]:
            self._waits[kind] -= 1
            return None
        return kind

    def strikes(self, kind: str, answer: bytes) -> bool:
        """Whether this answer to a request of that kind is lost."""
        if answer.startswith(b"-"):
            return False
        self._waits[kind] = self._every - 1
        self.lost[kind] += 1
        return True
