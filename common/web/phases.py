"""The phases of a connection, how long each may last, and whether the client reads its answer."""

from enum import Enum, auto

from common.web.limits import Limits

NEVER_S = float("inf")


class Phase(Enum):
    """Each phase waits for something else."""

    NEW = auto()  # the first request
    IDLE = auto()  # the next request
    HEAD = auto()  # the rest of a head
    SMALL_BODY = auto()  # the body of a request for the fast lane
    BODY = auto()  # the rest of a body, which is passed on as it comes
    ANSWER = auto()  # the answer to a request that has come whole
    UPGRADED = auto()  # nothing: it is a WebSocket
    LINGER = auto()  # the client to read the last answer; its bytes are thrown away

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self in (Phase.SMALL_BODY, Phase.BODY, Phase.ANSWER, Phase.UPGRADED)

    def longest_s(self, limits: Limits) -> float:
        """How long the phase may last. An answer has the deadline of its application."""
        match self:
            case Phase.NEW:
                return limits.first_byte_s
            case Phase.IDLE:
                return limits.keep_alive_s
            case Phase.HEAD | Phase.SMALL_BODY:
                return limits.head_s
            case Phase.BODY:
                return limits.body_pause_s
            case Phase.LINGER:
                return limits.linger_s
        return NEVER_S


class Reading:
    """Whether a client reads what is written to it."""

    def __init__(self, now_s: float) -> None:
        self._taken = 0
        self._since_s = now_s

    def stalled_s(self, written: int, waiting: int, now_s: float) -> float:
        """For how long the client has taken nothing, while something waited; both in bytes since it connected."""
        taken = written - waiting
        if not waiting or taken != self._taken:
            self._taken, self._since_s = taken, now_s
        return now_s - self._since_s
