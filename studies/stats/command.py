"""The run under study: a command of the user's."""

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import PurePath
from types import TracebackType
from typing import Self

import psutil

from common.errors import UsageError
from studies.stats.usage import VOLUME, service_name

END_DEADLINE_S = 15.0
STDERR = 2


class Command:
    """A command, run from entering the context; ended at the latest on leaving it.

    What it prints goes to stderr: stdout carries our own result. Raises UsageError where it can't be run.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = argv
        self.name = service_name(PurePath(argv[0]).name, argv)
        self.elapsed_s = 0.0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        try:
            self._popen = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=STDERR)
        except OSError as error:
            raise UsageError(f"{self._argv[0]}: can't be run: {error.strerror}") from None
        self._process = psutil.Process(self._popen.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.over():
            self._popen.send_signal(signal.SIGTERM)
            self.elapsed_s = time.monotonic() - self._began
        try:
            self._popen.wait(END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._popen.pid

    def over(self) -> bool:
        """Whether it has ended. Until `code` is asked for it is not reaped, so that its CPU time can still be read."""
        ended = self._popen.returncode is not None or self._process.status() == psutil.STATUS_ZOMBIE
        if ended and not self.elapsed_s:
            self.elapsed_s = time.monotonic() - self._began
        return ended

    def code(self) -> int:
        """Its exit code, once it has ended."""
        return self._popen.wait()


def of_volume(argv: Sequence[str], volume: int | None) -> list[str]:
    """The command with its volume put in."""
    return [word if volume is None else word.replace(VOLUME, str(volume)) for word in argv]
