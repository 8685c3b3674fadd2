"""A progress bar on a terminal, nothing elsewhere."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """Shows the progress of a job on stderr, if that is a terminal. A context manager."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._progress.add_task(what, total=total, completed=done, rate="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, done: int, what: str | None = None) -> None:
        """Shows how many are done, and optionally another description of the job."""
        if self._progress.disable:
            return
        speed = self._progress.tasks[0].speed
        rate = f"{speed:,.0f}/s" if speed and speed >= 1 else ""
        self._progress.update(self._task, completed=done, rate=rate, description=what)

    def print(self, line: str) -> None:
        """Prints a line on stderr, above the bar."""
        self._progress.console.print(line, soft_wrap=True, highlight=False, markup=False)
