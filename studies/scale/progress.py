"""How far a study is, on stderr: a line for each point measured, and on a terminal a bar."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class StudyProgress:
    """A context manager. `expected_s` says how long each point to come may take, roughly."""

    def __init__(self, expected_s: list[float]) -> None:
        self._console = Console(file=sys.stderr)
        self._expected_s = expected_s
        self._done = 0
        self._progress = Progress(
            TextColumn("{task.fields[count]}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._progress.add_task("", total=sum(expected_s), count=self._count)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, what: str) -> None:
        """The next point is being measured."""
        self._progress.update(self._task, description=what)

    def done(self, line: str) -> None:
        """It is measured; `line` says what came of it."""
        self._progress.advance(self._task, self._expected_s[self._done])
        self._done += 1
        self._progress.update(self._task, count=self._count)
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    @property
    def _count(self) -> str:
        return f"{self._done}/{len(self._expected_s)} points"
