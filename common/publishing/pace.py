"""Open arrivals: each message of a publication is due at a fixed time, however late the messages before it were."""

import time
from collections.abc import Callable

# Messages that are due within this time are published together: at high rates a pause costs more than a message.
SHORTEST_PAUSE_S = 0.001


class Pace:
    """`rate_per_s` messages a second: message k of a publication, from 0, is due k/rate_per_s seconds after `start`.

    Late messages are published at once; none is left out.

    Attributes:
        began_s: When the publication began, by the clock; 0 before that.
        behind_s: How late the last message was, in seconds.
        most_behind_s: How late the latest of all messages was, in seconds.
    """

    def __init__(self, rate_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate_per_s = rate_per_s
        self.began_s = 0.0
        self.behind_s = 0.0
        self.most_behind_s = 0.0
        self._clock = clock
        self._first = 0

    def start(self, first: int) -> None:
        """Message `first` is due now."""
        self._first = first
        self.began_s = self._clock()

    def early_s(self, seq: int) -> float:
        """How many seconds are left until message `seq` is due; negative if it is late."""
        return (seq - self._first) / self.rate_per_s - (self._clock() - self.began_s)

    def pause_s(self, seq: int) -> float:
        """How many seconds to wait before message `seq` is published; 0 if it is due, which is taken as its publish."""
        behind_s = -self.early_s(seq)
        if behind_s < 0:
            return max(-behind_s, SHORTEST_PAUSE_S)
        self.behind_s = behind_s
        self.most_behind_s = max(self.most_behind_s, behind_s)
        return 0.0
