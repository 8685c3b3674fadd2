"""Looks up host names of callbacks apart from all other look-ups.

An event loop has few threads for look-ups (uvloop: four), which the connections to broker and Redis need as well when
they are made again. Callers choose the names here, and with them the name servers, which may never answer.
"""

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

_Found = list[Any]  # as socket.getaddrinfo gives it


class Names(AbstractResolver):
    """At most `most` look-ups at a time, each in a thread that does not keep the process from ending."""

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a host. Raises OSError, or UnicodeError for what is no name."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Found] = loop.create_future()

        def look_up() -> None:
            found: _Found | Exception
            try:
                found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
            except (OSError, UnicodeError) as error:
                found = error
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(done, found)

        def done(found: _Found | Exception) -> None:
            self._free.release()
            if answer.done():
                return  # nobody waits any more
            if isinstance(found, Exception):
                answer.set_exception(found)
            else:
                answer.set_result(found)

        threading.Thread(target=look_up, name="callback-name", daemon=True).start()
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=family_,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for family_, _, protocol, _, address in await answer
        ]

    async def close(self) -> None:
        """Nothing to close: what is under way ends by itself."""
