"""Whose turn a delivery is: hosts that keep us waiting for nothing share places among themselves, and take no others'.

A host stands in one of three lines, by how its last try went, and each line has places of its own, which its hosts get
in turn. So a host that is known to be well waits for none that is not, however many there are; and one that nobody
knows yet waits only for others like it, each of which has a place for PROMPT_S at most while there is room to linger.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

# An answer usually comes in well under a second. A delivery that takes longer lingers: it goes on, and its place is the
# next one's. This many may, for each is a connection and, while its name is looked up, a thread.
PROMPT_S = 1.0
MOST_LINGERING = 256
# Hosts whose standing is known. More than are held to be delivered to, so there is always one to forget.
MOST_HOSTS = 20_000


class Standing(Enum):
    """How a host's last try went; with the places of all such hosts, and what one of them may have under way and held.

    What is held of a failing host is what is tried: the others wait where they are owed, and take no room here.
    """

    NEW = (64, 1, 32)  # not tried yet
    WELL = (64, 8, 1_024)  # it was delivered to, or failed at once, which costs nothing
    FAILING = (32, 1, 1)  # it kept us waiting, and for nothing

    def __init__(self, places: int, under_way: int, held: int) -> None:
        self.places, self.under_way, self.held = places, under_way, held


MOST_UNDER_WAY = sum(standing.places for standing in Standing) + MOST_LINGERING


@dataclass(slots=True, eq=False)
class _Host:
    standing: Standing = Standing.NEW
    waiting: deque["Turn"] = field(default_factory=deque)
    under_way: int = 0
    in_line: bool = False


class Turn:
    """A delivery's turn: it comes, or is given up with those of a host that begins to fail."""

    def __init__(self, turns: "Turns", host: _Host) -> None:
        self._turns, self._host = turns, host
        self._came: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._place: Standing | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lingers = False
        self._late = False

    async def comes(self) -> bool:
        """Waits; True once it is here, which calls for `end`, False if it will not come."""
        return await self._came

    def end(self, well: bool | None) -> None:
        """The try is over (None: nothing was tried). One that went wrong is held against the host if it took long."""
        self._turns._end(self, well)


class Turns:
    """The lines."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}
        self._lines: dict[Standing, deque[_Host]] = {standing: deque() for standing in Standing}
        self._free = {standing: standing.places for standing in Standing}
        self._lingering = 0

    def standing(self, name: str) -> Standing:
        """How a host stands."""
        host = self._hosts.get(name)
        return Standing.NEW if host is None else host.standing

    def join(self, name: str) -> Turn | None:
        """A turn for a delivery to a host, last of those to this host; None if there is no room."""
        host = self._hosts.pop(name, None) or _Host()
        self._hosts[name] = host
        self._forget()
        if len(host.waiting) + host.under_way >= host.standing.held:
            return None
        turn = Turn(self, host)
        host.waiting.append(turn)
        self._line_up(host)
        self._go_on(host.standing)
        return turn

    def _forget(self) -> None:
        """Lets go of what was longest not joined."""
        while len(self._hosts) > MOST_HOSTS:
            name = next(iter(self._hosts))
            host = self._hosts.pop(name)
            if host.waiting or host.under_way:
                self._hosts[name] = host

    def _line_up(self, host: _Host) -> None:
        if host.waiting and not host.in_line and host.under_way < host.standing.under_way:
            host.in_line = True
            self._lines[host.standing].append(host)

    def _go_on(self, standing: Standing) -> None:
        """Gives free places of a line to its hosts, one each in turn."""
        line = self._lines[standing]
        while line and self._free[standing]:
            host = line.popleft()
            host.in_line = False
            if host.standing is standing and host.waiting:
                turn = host.waiting.popleft()
                if not turn._came.done():  # else whoever waited was cancelled
                    self._begin(turn, host)
            self._line_up(host)  # behind the others, or in the line where it belongs by now
            if host.standing is not standing:
                self._go_on(host.standing)

    def _begin(self, turn: Turn, host: _Host) -> None:
        host.under_way += 1
        self._free[host.standing] -= 1
        turn._place = host.standing
        turn._timer = asyncio.get_running_loop().call_later(PROMPT_S, self._is_late, turn)
        turn._came.set_result(True)

    def _is_late(self, turn: Turn) -> None:
        turn._late = True
        if turn._place not in (None, Standing.FAILING) and self._lingering < MOST_LINGERING:
            self._lingering += 1
            turn._lingers = True
            self._leave(turn)

    def _leave(self, turn: Turn) -> None:
        place, turn._place = turn._place, None
        if place is not None:
            self._free[place] += 1
            self._go_on(place)

    def _end(self, turn: Turn, well: bool | None) -> None:
        host = turn._host
        host.under_way -= 1
        self._lingering -= turn._lingers
        if turn._timer is not None:
            turn._timer.cancel()
        if well is not None:
            host.standing = Standing.WELL if well or not turn._late else Standing.FAILING
        while host.waiting and len(host.waiting) + host.under_way > host.standing.held:
            given_up = host.waiting.pop()
            if not given_up._came.done():
                given_up._came.set_result(False)
        self._line_up(host)
        self._leave(turn)
        self._go_on(host.standing)
