"""Counts why sends were not accepted, and logs the counts together."""

import asyncio
import logging
import traceback
from collections import Counter

log = logging.getLogger(__name__)

# Errors of the network are expected: they are counted, without a traceback.
EXPECTED = (OSError, TimeoutError, EOFError, asyncio.CancelledError)


class FailureLog:
    """Logs one line an interval while there is something to say, and no content of any message.

    An unexpected exception is a bug of the provider. Its traceback is logged once an interval for each kind, without
    the text of the exception, which may quote the message.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._counts: Counter[str] = Counter()
        self._traced: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def count(self, reason: str) -> None:
        """Counts a send that was not accepted."""
        self._counts[reason] += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._every_s, self.flush)

    def trace(self, error: BaseException) -> None:
        """Logs where an unexpected exception came from."""
        kind = type(error).__name__
        if isinstance(error, EXPECTED) or kind in self._traced:
            return
        self._traced.add(kind)
        where = "".join(traceback.format_tb(error.__traceback__))
        log.error("send_raised", extra={"kind": kind, "traceback": where})

    def flush(self) -> None:
        """Logs the counts since the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._counts:
            causes = dict(self._counts.most_common())
            log.warning("sends_not_accepted", extra={"causes": causes})
        self._counts.clear()
        self._traced.clear()
