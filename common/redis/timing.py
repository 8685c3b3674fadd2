"""The timing of the client of Redis."""

from dataclasses import dataclass

from common.backoff import Backoff


@dataclass(frozen=True, slots=True)
class RedisTiming:
    """The timing of the client, in seconds.

    Attributes:
        first_backoff_s: First pause before a call is repeated; the next pauses double.
        longest_backoff_s: Longest pause.
        connect_s: How long to connect may take.
        answer_s: How long an answer may take. An answer of a Sentinel has the time of a connect.
        replicas_s: How long the replicas of REDIS_WAIT_REPLICAS may take for a write.
        connection_s: Age at which a connection is replaced when it is next free: its host's name may have moved.
        login_s: How long a login that has worked before may be refused, until a restart is needed.
        log_every_s: Interval at which an outage that lasts is logged again.
    """

    first_backoff_s: float = 0.05
    longest_backoff_s: float = 2.0
    connect_s: float = 5.0
    answer_s: float = 10.0
    replicas_s: float = 5.0
    connection_s: float = 60.0
    login_s: float = 30.0
    log_every_s: float = 30.0

    def backoff(self) -> Backoff:
        """The pauses between the attempts of one call."""
        return Backoff(self.first_backoff_s, self.longest_backoff_s)


TIMING = RedisTiming()
