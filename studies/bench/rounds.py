"""Rounds of measurements, interleaved: what they gave, and which peers gave nothing and why."""

import re
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import psutil
from pika.exceptions import AMQPError
from redis.exceptions import RedisError

from studies.bench.figures import EMBEDDED, US, Measured, figure
from studies.bench.peers.port import NotAvailable
from studies.process import BenchmarkFailed

# What a peer that does not work can do to a measurement of it.
TROUBLES = (BenchmarkFailed, NotAvailable, TimeoutError, OSError, AMQPError, RedisError, psutil.Error)
# Absolute paths, as programs print them: in quotes with blanks in them too, after a flag, or as a URL's. Links stay.
PATHS = re.compile(
    r"""(?P<link>https?://\S+)|(?<=["'])/[^"'\n]+|(?<![\w./-])(?:~\w*|-\w+|\w+:/+)?/[^\s"',;:()<>\[\]=]+"""
)


@dataclass(frozen=True)
class Scenario:
    """Something to measure once a round; `who` answers for it."""

    who: str
    take: Callable[[], Awaitable[list[Measured]]]


@dataclass
class Rounds:
    """What was measured so far. A peer that failed once is left out from then on; `failures` has its reason."""

    failures: dict[str, str] = field(default_factory=dict)
    _measured: list[Measured] = field(default_factory=list)

    async def add(self, scenarios: Iterable[Scenario], title: str) -> None:
        """Each scenario once, so that a slow minute of the machine hits all alike.

        Raises BenchmarkFailed where ours fails.
        """
        for scenario in scenarios:
            if scenario.who in self.failures:
                continue
            try:
                measured = await scenario.take()
            except TROUBLES as error:
                if scenario.who in (US, EMBEDDED):
                    raise
                self.fail(scenario.who, error)
                continue
            for one in measured:
                batch = f", batches of {one.batch_size}" if one.batch_size else ""
                _say(f"{title}: {one.who}: {one.work}{batch}: {one.rate_per_s:,.0f} messages/s")
            self._measured += measured

    def fail(self, who: str, error: Exception) -> None:
        """This peer gives no figures. The reason is recorded in a line, all that happened is told on stderr."""
        said = error.reason if isinstance(error, BenchmarkFailed) else str(error)
        lines = [line for line in said.splitlines() if line.strip()] or [type(error).__name__]
        self.failures[who] = without_paths(lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}")
        _say(f"{who} failed, and is left out: {error}")

    def figures(self) -> list[dict[str, Any]]:
        """The medians over rounds, in the order of the first round."""
        same: dict[tuple[str, str, int | None], list[Measured]] = {}
        for one in self._measured:
            if one.who not in self.failures:
                same.setdefault((one.who, one.work, one.batch_size), []).append(one)
        return [figure(rounds) for rounds in same.values()]


def without_paths(text: str) -> str:
    """A text with nothing left of absolute paths but their last parts: where things lie on this machine is its own."""
    return PATHS.sub(lambda found: found["link"] or PurePath(found[0]).name, text)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
