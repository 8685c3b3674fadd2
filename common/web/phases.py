"""The phases of a connection, and how long each may last."""

from enum import Enum, auto

from common.web.limits import Limits

NEVER_S = float("inf")


class Phase(Enum):
    """Each phase waits for something else."""

    HANDSHAKE = auto()  # the end of the TLS handshake
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
            case Phase.HANDSHAKE:
                return limits.handshake_s
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
