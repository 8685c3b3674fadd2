"""Resolves the host names of callbacks in threads of its own.

An event loop has few threads for name resolution (uvloop has four). The connections to RabbitMQ and Redis need them.
Clients choose the names of callbacks, and with them the name servers, which may never answer.
"""

import asyncio
import socket
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class ThreadResolver(AbstractResolver):
    """Resolves up to `max_lookups` names at a time, each in a daemon thread, which cannot delay the process's exit."""

    def __init__(self, max_lookups: int) -> None:
        self._slots = asyncio.Semaphore(max_lookups)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Returns the addresses of a host.

        Raises:
            OSError: The name was not resolved.
            UnicodeError: The name is invalid.
        """
        await self._slots.acquire()
        lookup = self._start_lookup(host, port, family)
        return [
            ResolveResult(
                hostname=host, host=address[0], port=address[1], family=found, proto=protocol, flags=_NUMERIC
            )
            for found, _, protocol, _, address in await asyncio.wrap_future(lookup)
        ]

    async def close(self) -> None:
        """Does nothing: the threads end by themselves."""

    def _start_lookup(self, host: str, port: int, family: int) -> "Future[list[Any]]":
        loop = asyncio.get_running_loop()
        lookup: Future[list[Any]] = Future()
        lookup.set_running_or_notify_cancel()  # a lookup keeps its slot until it ends, even if nobody waits for it

        def run() -> None:
            try:
                lookup.set_result(
                    socket.getaddrinfo(
                        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
                    )
                )
            except (OSError, UnicodeError) as error:
                lookup.set_exception(error)
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._slots.release)

        Thread(target=run, name="callback-resolver", daemon=True).start()
        return lookup
