"""One process under measurement, and a wait that notices when a process fails."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil

from common.errors import SmsimError, UsageError
from common.settings import Settings

T = TypeVar("T")


class StudyFailed(SmsimError):
    """A figure cannot be measured, or would be worthless: a process failed, or a run does not add up.

    Attributes:
        output: The end of the output of a failed process, for the person at the terminal.
    """

    def __init__(self, reason: str, output: str = "") -> None:
        super().__init__(reason)
        self.output = output


class Process:
    """A child process with captured output. A context manager, which kills the process and its children on exit.

    The process runs in a session of its own, so that Ctrl-C reaches the study alone. After its end it stays a zombie
    until its exit code is read, so that its CPU time can still be measured.

    Args:
        name: Its name in errors.
        command: The program and its arguments.
        env: Additional environment variables.
        isolated: Whether to hide the user's settings: it inherits none of them, and runs in an empty directory, where
            no `.env` is found.
        forwarded: Whether its output goes to our stderr. It then gets SIGTERM and some time before it is killed.
        end_deadline_s: How long it may take to end.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        isolated: bool = False,
        forwarded: bool = False,
        end_deadline_s: float = 15.0,
    ) -> None:
        self.name = name
        self._ended_s: float | None = None
        self._command = command
        self._env = _inherited(isolated) | dict(env or {})
        self._isolated = isolated
        self._forwarded = forwarded
        self._end_deadline_s = end_deadline_s

    def __enter__(self) -> Self:
        self._began_s = time.monotonic()
        self._files = tempfile.TemporaryDirectory(prefix="smsim-")
        self._out, self._log = (Path(self._files.name) / name for name in ("out", "log"))
        try:
            self._popen = self._started()
        except OSError as error:
            self._files.cleanup()
            raise UsageError(f"{self._command[0]}: can't be run: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._forwarded and not self.over:
            self.stop()
            with contextlib.suppress(StudyFailed):
                self.code()
        if self._popen.returncode is None:
            os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()
        self._files.cleanup()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    @property
    def log_lines(self) -> list[str]:
        """What it has written to stderr."""
        return self._log.read_text(errors="replace").splitlines()

    @property
    def elapsed_s(self) -> float:
        """Seconds from its start to its end, as first seen, or until now."""
        return (self._ended_s or time.monotonic()) - self._began_s

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        ended = self._popen.returncode is not None or _is_zombie(self._popen.pid)
        if ended and self._ended_s is None:
            self._ended_s = time.monotonic()
        return ended

    def stop(self) -> None:
        """Sends SIGTERM."""
        self._popen.send_signal(signal.SIGTERM)

    def code(self) -> int:
        """Waits for its exit code. Raises StudyFailed if it does not end in time."""
        try:
            code = self._popen.wait(self._end_deadline_s)
        except subprocess.TimeoutExpired:
            raise self.failed(f"did not end within {self._end_deadline_s:g} s") from None
        self._ended_s = self._ended_s or time.monotonic()
        return code

    def check(self) -> None:
        """Waits for its end. Raises StudyFailed unless the exit code is 0."""
        code = self.code()
        if code < 0:
            name = signal.Signals(-code).name
            raise self.failed(f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else ""))
        if code > 0:
            raise self.failed(f"ended with exit code {code}")

    def check_alive(self) -> None:
        """Raises StudyFailed if it has ended."""
        if self.over:
            raise self.failed("ended too early")

    def end(self) -> None:
        """Sends SIGTERM and waits for its end. Raises StudyFailed unless the exit code is 0."""
        self.stop()
        self.check()

    async def ended(
        self,
        *watched: "Process",
        look: Callable[[], object] = lambda: None,
        deadline_s: float = float("inf"),
    ) -> None:
        """Waits for its end, and calls `look` before each poll. Raises StudyFailed, also if a watched one fails."""

        async def over() -> bool:
            ended = self.over
            look()
            return ended

        await until(over, *watched, what=f"{self.name} has ended", deadline_s=deadline_s)

    def result(self) -> dict[str, Any]:
        """The JSON object in the last line of its stdout, after its end. Raises StudyFailed."""
        self.check()
        try:
            found: dict[str, Any] = json.loads(self._out.read_text().splitlines()[-1])
        except (IndexError, ValueError):
            raise self.failed("printed no JSON") from None
        return found

    def reported(self, field: str) -> Any:
        """The latest value of a field in the JSON lines on its stdout; None if no line has it yet."""
        for line in reversed(self._out.read_text(errors="replace").splitlines()):
            with contextlib.suppress(ValueError):
                report = json.loads(line)
                if isinstance(report, dict) and field in report:
                    return report[field]
        return None

    def failed(self, how: str) -> StudyFailed:
        """The error to raise for this process, with the last line that it printed."""
        output = "".join(
            file.read_text(errors="replace")[-2000:] for file in (self._out, self._log) if file.exists()
        )
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        return StudyFailed(f"{self.name} {how}" + (f": {lines[-1][-500:]}" if lines else ""), output)

    def _started(self) -> "subprocess.Popen[bytes]":
        with self._out.open("wb") as out, self._log.open("wb") as log:
            return subprocess.Popen(
                self._command,
                env=self._env,
                cwd=self._files.name if self._isolated else None,
                stdin=subprocess.DEVNULL,
                stdout=2 if self._forwarded else out,  # 2 is stderr
                stderr=None if self._forwarded else log,
                start_new_session=True,
            )


async def until(
    condition: Callable[[], Awaitable[T | None]],
    *watched: Process,
    what: str,
    deadline_s: float = 60.0,
    every_s: float = 0.02,
) -> T:
    """Polls a condition until it returns a true value, and returns that value.

    Args:
        condition: Returns a true value once the wait is over.
        watched: Processes that must not fail meanwhile.
        what: The condition in words, for the error.
        deadline_s: How long to wait at most.
        every_s: The pause between two polls.

    Raises:
        StudyFailed: A watched process failed, or the deadline passed.
    """
    ends_s = time.monotonic() + deadline_s
    while True:
        # Seen before the poll, which may still read the CPU time of a process that has ended.
        ended = [process for process in watched if process.over]
        if found := await condition():
            return found
        for process in ended:
            process.check()
        if time.monotonic() > ends_s:
            raise StudyFailed(f"{what}: not within {deadline_s:g} s")
        await asyncio.sleep(every_s)


def _inherited(isolated: bool) -> dict[str, str]:
    hidden = {name.upper() for name in Settings.model_fields} if isolated else set()
    return {name: value for name, value in os.environ.items() if name.upper() not in hidden}


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
