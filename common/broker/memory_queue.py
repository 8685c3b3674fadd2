"""A queue of the memory broker: bodies in order, with waiting readers and waiting publishes."""

import asyncio
from collections import deque
from dataclasses import dataclass

from common.messages import Lane


@dataclass(slots=True)
class Body:
    """A body in the broker.

    Attributes:
        messages: How many messages it has.
    """

    body: bytes
    messages: int
    lane: Lane
    reason: str = ""
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A publish that waits for room."""

    body: Body
    confirm: "asyncio.Future[None]"


class MemoryQueue:
    """A FIFO of bodies. Publishes beyond `capacity` messages wait for room.

    Attributes:
        bodies: The bodies, the next one first.
    """

    def __init__(self, capacity: int) -> None:
        self.bodies: deque[Body] = deque()
        self._messages = 0
        self._capacity = capacity
        self._waiting: deque[_Waiting] = deque()
        self._readers: list[asyncio.Future[None]] = []

    def publish(self, body: Body, confirm: "asyncio.Future[None]", at_once: bool) -> None:
        """Takes the body in and confirms it: at once, or when there is room."""
        waiting = _Waiting(body, confirm)
        if at_once:
            self._take_in(waiting)
        else:
            self._waiting.append(waiting)
            self._fill()

    def push_front(self, body: Body) -> None:
        """Puts a body back at the head."""
        self.bodies.appendleft(body)
        self._messages += body.messages
        self.wake()

    def pop(self) -> Body:
        """Removes the body at the head."""
        body = self.bodies.popleft()
        self._messages -= body.messages
        self._fill()
        return body

    def wake(self) -> None:
        """Ends `changed` for every reader."""
        readers, self._readers = self._readers, []
        for reader in readers:
            if not reader.done():
                reader.set_result(None)

    async def changed(self) -> None:
        """Returns when a reader may find something new."""
        reader = asyncio.get_running_loop().create_future()
        self._readers.append(reader)
        await reader

    def _fill(self) -> None:
        while self._waiting and self._messages < self._capacity:
            self._take_in(self._waiting.popleft())

    def _take_in(self, waiting: _Waiting) -> None:
        self.bodies.append(waiting.body)
        self._messages += waiting.body.messages
        if not waiting.confirm.done():
            waiting.confirm.set_result(None)
        self.wake()
