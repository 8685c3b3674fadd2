"""Processes under measurement: ended with the study, unless that is killed outright, and held to ending well."""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Self

import psutil

from common.errors import SmsimError

END_DEADLINE_S = 30.0
TAIL_CHARACTERS = 500


class StudyFailed(SmsimError):
    """A point can't be had, or would be worthless: a process failed, or a run does not add up."""


class Child:
    """One process of the study; a context manager. `what` names it in errors.

    A session of its own keeps Ctrl-C and the terminal's end from it: the study ends it on leaving the context, which
    SIGINT, SIGTERM and SIGHUP make it do (common/cli.py). A study that is ended by SIGKILL leaves it running.
    """

    def __init__(self, what: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self._what = what
        self._command = command
        self._env = {**os.environ, **(env or {})}
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed with this context
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed with this context
        self._cpu_s = self._began_cpu_s = 0.0
        self.peak_rss_bytes = 0

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._log,
            env=self._env,
            start_new_session=True,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.over:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        self._out.close()
        self._log.close()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._process.returncode is not None

    @property
    def ended_badly(self) -> bool:
        """Whether it has ended with another exit code than 0."""
        return self.over and self._process.returncode != 0

    @property
    def cpu_s(self) -> float:
        """CPU seconds, user and system, from `begin` to the last look."""
        return self._cpu_s - self._began_cpu_s

    def begin(self) -> None:
        """CPU time counts from here."""
        self.look()
        self._began_cpu_s = self._cpu_s

    def look(self) -> None:
        """Takes its CPU time and memory; call it often, since they can be had only while it runs."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self._process.pid)
            times, rss = process.cpu_times(), process.memory_info().rss
            if rss:  # a process that has just ended has none
                self._cpu_s = times.user + times.system
                self.peak_rss_bytes = max(self.peak_rss_bytes, rss)

    def stop(self) -> None:
        """Tells it to end; `result` waits for that."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    async def result(self, deadline_s: float | None = None) -> bytes:
        """What it printed, once it ended. Raises StudyFailed unless it ended well, and in time."""
        try:
            async with asyncio.timeout(deadline_s):
                code = await self._process.wait()
        except TimeoutError:
            raise StudyFailed(f"{self._what}: not over after {deadline_s:g} s") from None
        if code != 0:
            raise self.failed()
        return _whole(self._out)

    def failed(self) -> StudyFailed:
        """The error to raise of a process that has ended, with the last line of what it printed."""
        code = self._process.returncode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        lines = _whole(self._log).decode(errors="replace").strip().splitlines()
        said = f": {lines[-1][-TAIL_CHARACTERS:]}" if lines else ""
        hint = " (out of memory?)" if how == "SIGKILL" else ""
        return StudyFailed(f"{self._what}: ended by {how}{hint}{said}")


def _whole(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
