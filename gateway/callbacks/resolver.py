"""Resolves the host names of callbacks in threads of its own.

An event loop has few threads for name resolution (uvloop has four). The connections to RabbitMQ and Redis need them.
Clients choose the names of callbacks, and with them the name servers, which may never answer.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
_Found = list[Any]  # what socket.getaddrinfo returns


class ThreadResolver(AbstractResolver):
    """Resolves up to `max_lookups` names at a time. A lookup keeps its slot until it ends, even if it is cancelled."""

    def __init__(self, max_lookups: int) -> None:
        self._slots = asyncio.Semaphore(max_lookups)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Returns the addresses of a host. Raises OSError, or UnicodeError for an invalid name."""
        await self._slots.acquire()
        lookup = self._start(
            partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        )
        return [
            ResolveResult(hostname=host, host=at[0], port=at[1], family=found, proto=protocol, flags=_NUMERIC)
            for found, _, protocol, _, at in await asyncio.wrap_future(lookup)
        ]

    async def close(self) -> None:
        """Does nothing: the threads end by themselves."""

    def _start(self, look_up: Callable[[], _Found]) -> "Future[_Found]":
        loop = asyncio.get_running_loop()
        lookup: Future[_Found] = Future()
        lookup.set_running_or_notify_cancel()

        def release(_: object) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._slots.release)

        lookup.add_done_callback(release)
        # A daemon thread cannot delay the process's exit.
        Thread(target=_run, args=(look_up, lookup), name="callback-resolver", daemon=True).start()
        return lookup


def _run(look_up: Callable[[], _Found], lookup: "Future[_Found]") -> None:
    try:
        lookup.set_result(look_up())
    except (OSError, UnicodeError) as error:
        lookup.set_exception(error)
