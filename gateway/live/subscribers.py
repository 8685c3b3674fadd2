"""A subscriber: one client of the live events, and the frames that wait for it.

A client that is too slow is dropped with a reason: frames are not buffered without bound, and nobody waits for it. All
clients that see the same share the frames.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

from gateway.live.filters import Filters
from gateway.live.frames import Frame, Join
from gateway.live.limits import LiveLimits


class Ending(NamedTuple):
    """Why a subscription ends.

    Attributes:
        code: A close code of RFC 6455 §7.4.
        reason: At most 123 bytes.
    """

    code: int
    reason: str


GOING_AWAY = Ending(1001, "the gateway is shutting down")


class ClientConnection(Protocol):
    """The part of its client's connection that a subscriber uses."""

    def streams(self) -> None:
        """A client that sends no more counts as gone."""

    def cut_off(self) -> None:
        """Closes at once and throws away what waits to be written."""


class Subscriber:
    """One client. It sees what its `filters` let through; `join` makes frames of events.

    Attributes:
        filters: Which events the client wants.
        join: How events become a frame.
        ending: Why the subscription ended; None while it lasts, and where the client left.
    """

    def __init__(
        self, filters: Filters, join: Join, connection: ClientConnection, limits: LiveLimits
    ) -> None:
        self.filters = filters
        self.join = join
        self.ending: Ending | None = None
        self._connection = connection
        self._limits = limits
        self._frames: deque[Frame] = deque()
        self._waiting_bytes = 0
        self._sending = False
        self._taken_s = time.monotonic()
        self._over = False
        self._changed = asyncio.Event()
        connection.streams()

    def offer(self, frame: Frame) -> None:
        """Queues a frame, or drops a client that is too far behind. Never waits."""
        if self._over:
            return
        limits = self._limits
        if self._waiting_bytes > limits.waiting_bytes or len(self._frames) >= limits.waiting_frames:
            self.end(
                Ending(1013, f"too slow: over {limits.waiting_bytes // 1024} KiB of events were waiting")
            )
            return
        if not self._frames and not self._sending:
            self._taken_s = time.monotonic()
        self._frames.append(frame)
        self._waiting_bytes += len(frame)
        self._changed.set()

    def check(self, now_s: float) -> None:
        """Drops a client that reads nothing. Called each second or so."""
        waits = bool(self._frames) or self._sending
        if waits and now_s - self._taken_s >= self._limits.stall_s:
            self.end(Ending(1013, f"too slow: nothing was read for {self._limits.stall_s:g} s"))

    def end(self, ending: Ending) -> None:
        """Ends the subscription; the client is cut off after it had time to read the reason."""
        linger_s = self._limits.goodbye_s if ending == GOING_AWAY else self._limits.linger_s
        asyncio.get_running_loop().call_later(linger_s, self._connection.cut_off)
        if self.ending is None:
            self.ending = ending
        self.leave()

    def leave(self) -> None:
        """The client has gone: no more frames."""
        self._over = True
        self._frames.clear()
        self._changed.set()

    async def frames(self, heartbeat: Frame = b"") -> AsyncIterator[Frame]:
        """Frames to send, until the subscription ends; `heartbeat` where there are none for a while."""
        while not self._over:
            try:
                async with asyncio.timeout(self._limits.heartbeat_s):
                    await self._changed.wait()
            except TimeoutError:
                if heartbeat:
                    yield heartbeat
                continue
            self._changed.clear()
            while self._frames:
                frame = self._frames.popleft()
                self._sending = True
                yield frame
                self._sending = False
                self._waiting_bytes -= len(frame)
                self._taken_s = time.monotonic()
