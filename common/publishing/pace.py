"""Open arrivals: when each message of a publication is due, whatever became of those before it."""

import time
from collections.abc import Callable

# What is due within it goes out together: at high rates a pause for each message would cost more than the message.
SHORTEST_PAUSE_S = 0.001


class Pace:
    """`rate_per_s` messages a second: the k-th of a publication, from 0, is due k/rate_per_s seconds after `start`.

    Nothing is left out: what is late goes out at once, and `behind_s` says how late the last was, `most_behind_s` the
    latest of all, in seconds.
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
        """How many seconds are left until message `seq` is due; below 0 if it is late."""
        return (seq - self._first) / self.rate_per_s - (self._clock() - self.began_s)

    def pause_s(self, seq: int) -> float:
        """How many seconds to wait before message `seq` goes out: 0 if it is due, which counts as its publish."""
        behind_s = -self.early_s(seq)
        if behind_s < 0:
            return max(-behind_s, SHORTEST_PAUSE_S)
        self.behind_s = behind_s
        self.most_behind_s = max(self.most_behind_s, behind_s)
        return 0.0
