"""Interleaved rounds of measurements: their figures, and which peers have none and why."""

import re
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePath

import psutil
from pika.exceptions import AMQPError
from redis.exceptions import RedisError

from studies.bench.figures import EMBEDDED, OURS, Figure, Measured, Work
from studies.bench.peers.port import NotAvailable
from studies.process import StudyFailed

# Errors that a broken peer may raise.
TROUBLES = (StudyFailed, NotAvailable, TimeoutError, OSError, AMQPError, RedisError, psutil.Error)
# Absolute paths as programs print them: in quotes, also with blanks in them, after a flag, or in a URL. Links stay.
PATHS = re.compile(
    r"""(?P<link>https?://\S+)|(?<=["'])/[^"'\n]+|(?<![\w./-])(?:~\w*|-\w+|\w+:/+)?/[^\s"',;:()<>\[\]=]+"""
)


@dataclass(frozen=True)
class Scenario:
    """Something to measure once a round; `who` is the name of ours or of the peer."""

    who: str
    take: Callable[[], Awaitable[list[Measured]]]


@dataclass
class Rounds:
    """The measurements so far.

    Attributes:
        failures: The reason by peer. A peer that failed once is left out from then on.
    """

    failures: dict[str, str] = field(default_factory=dict)
    _measured: list[Measured] = field(default_factory=list)

    async def add(self, scenarios: Iterable[Scenario], title: str) -> None:
        """Measures each scenario once, so that a slow minute of the machine affects all alike.

        Raises StudyFailed where ours fails.
        """
        for scenario in scenarios:
            if scenario.who in self.failures:
                continue
            try:
                measured = await scenario.take()
            except TROUBLES as error:
                if scenario.who in (OURS, EMBEDDED):
                    raise
                self.fail(scenario.who, error)
                continue
            for one in measured:
                work = one.work
                batch = f", batches of {work.batch_size}" if work.batch_size else ""
                _print(f"{title}: {one.who}: {work.name}{batch}: {one.rate_per_s:,.0f} messages/s")
            self._measured += measured

    def fail(self, who: str, error: Exception) -> None:
        """Leaves a peer out. One line of the reason is recorded; all of the reason is printed on stderr."""
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        self.failures[who] = without_paths(lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}")
        _print(f"{who} failed, and is left out: {error}\n{getattr(error, 'output', '')}".rstrip())

    def figures(self) -> list[Figure]:
        """The medians over rounds, in the order of the first round."""
        same: dict[tuple[str, Work], list[Measured]] = {}
        for one in self._measured:
            if one.who not in self.failures:
                same.setdefault((one.who, one.work), []).append(one)
        return [Figure.of(rounds) for rounds in same.values()]


def without_paths(text: str) -> str:
    """The text with each absolute path cut to its last part, since a record must not show the machine's folders."""
    return PATHS.sub(lambda found: found["link"] or PurePath(found[0]).name, text)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
