"""The front door: every client connection of a server, how many there may be, and the clock that ends slow ones.

uvicorn bounds neither the number of connections nor the time for a head, and declines to (its issue 157). Here each
client gets a `Connection`, which frames and bounds its requests and passes them to uvicorn's own protocol.
"""

import asyncio
import contextlib
import logging
import ssl
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from email.utils import formatdate
from itertools import islice
from typing import Any, cast

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from common.web.connection import Connection
from common.web.fast_lane import FastLane
from common.web.held import HeldBytes
from common.web.limits import Limits

log = logging.getLogger(__name__)

# Connections that are checked before other tasks have a turn.
CHECKS_A_TURN = 500
# Connections that are looked at to make room for a new one. Busy ones are not looked at again soon.
LOOKED_AT = 100


class FrontDoor:
    """Admits connections and watches them while it is `open`; `protocol` is for uvicorn's `Config(http=...)`.

    Attributes:
        limits: The bounds of each connection, and of all.
        fast_lane: Serves the requests that it takes without ASGI.
        tls: What connections are secured with; None: they are not.
        held: The bytes that are held for clients.
        date_line: The header field Date of an answer, now.
    """

    def __init__(
        self, limits: Limits, fast_lane: FastLane | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.limits = limits
        self.fast_lane = fast_lane
        self.tls = tls
        self.held: HeldBytes[Connection] = HeldBytes(limits.held_bytes, self._stop_holding)
        self.date_line = b""
        # The connection that became idle first comes first; busy ones stand anywhere.
        self._connections: OrderedDict[Connection, None] = OrderedDict()
        self._by_address: dict[str, OrderedDict[Connection, None]] = {}
        self._for_shutdown: set[Any] = set()
        self._counts: Counter[str] = Counter()
        self._reported_s = float("-inf")

    def protocol(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Connection:
        """The protocol of a new connection. uvicorn calls it with these arguments."""
        self._for_shutdown = cast(set[Any], server_state.connections)

        def inner(connection: Connection) -> asyncio.Protocol:
            return HttpToolsProtocol(config, server_state, {**app_state, "connection": connection}, _loop)

        return Connection(self, inner)

    def admit(self, connection: Connection) -> None:
        """Counts a connection. Beyond a limit, the one that has been idle longest is closed, or else this one."""
        self._connections[connection] = None
        neighbours = self._by_address.setdefault(connection.address, OrderedDict())
        neighbours[connection] = None
        self._for_shutdown.add(connection)
        if len(neighbours) > self.limits.connections_per_address:
            self._make_room(connection, neighbours)
        elif len(self._connections) > self.limits.connections:
            self._make_room(connection, self._connections)

    def leave(self, connection: Connection) -> None:
        """The connection is closed."""
        self.held.note(connection, 0)
        self._for_shutdown.discard(connection)
        del self._connections[connection]
        del self._by_address[connection.address][connection]
        if not self._by_address[connection.address]:
            del self._by_address[connection.address]

    def became_idle(self, connection: Connection) -> None:
        """The connection waits for its next request."""
        self._connections.move_to_end(connection)
        self._by_address[connection.address].move_to_end(connection)

    def count(self, refusal: str) -> None:
        """Counts a refusal. The log has one line for many."""
        self._counts[refusal] += 1

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Watches the connections until left."""
        self._tell_time()
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    def _make_room(self, newcomer: Connection, among: OrderedDict[Connection, None]) -> None:
        """Closes an idle connection among these. Looks at few, so that newcomers cost little where most are busy."""
        for connection in list(islice(among, LOOKED_AT)):
            if connection is newcomer:
                continue
            if not connection.busy:
                self.count("idle connection closed for a new one")
                connection.cut_off()
                return
            among.move_to_end(connection)
        self.count("new connection closed: all others are busy")
        newcomer.cut_off()

    def _stop_holding(self, connection: Connection) -> None:
        self.count("cut off: too much was held for clients")
        connection.cut_off()

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self.limits.sweep_s)
            self._tell_time()
            for number, connection in enumerate(list(self._connections)):
                self._check(connection, clock())
                if number % CHECKS_A_TURN == 0:
                    await asyncio.sleep(0)
            self._report(clock())

    def _check(self, connection: Connection, now_s: float) -> None:
        """One that cannot be checked, since its socket has just failed, does not end the watch over all others."""
        try:
            connection.check(now_s)
        except Exception as error:
            log.error("connection_check_failed", exc_info=error)
            connection.cut_off()

    def _tell_time(self) -> None:
        self.date_line = b"date: %b\r\n" % formatdate(time.time(), usegmt=True).encode()

    def _report(self, now_s: float) -> None:
        if self._counts and now_s - self._reported_s >= self.limits.report_s:
            log.warning("clients_refused", extra={"counts": dict(self._counts)})
            self._counts.clear()
            self._reported_s = now_s
