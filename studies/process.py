"""Processes under measurement: started as a user would start them, and held to ending well."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from common.settings import Settings

END_DEADLINE_S = 15


class BenchmarkFailed(RuntimeError):
    """A figure can't be had, or would be worthless: a process failed, or a run does not add up.

    `reason` is what a table says of it, in a line; the text itself may have more, for whoever runs the benchmark.
    """

    def __init__(self, text: str, reason: str | None = None) -> None:
        super().__init__(text)
        self.reason = reason or text


class Launched:
    """One process of ours, ended at the latest on leaving the context. What it prints goes to files in `folder`.

    `name` is what a reason calls it, where that may be read by others: the command holds paths of this machine.
    """

    def __init__(
        self, command: Sequence[str], settings: Mapping[str, str], folder: Path, name: str = "a process"
    ) -> None:
        self._name = name
        self._command = command
        self._settings = settings
        self._folder = folder
        self._out, self._log = folder / "out", folder / "log"

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        # The user's own settings, in the environment and in .env, stay out: hence the other working directory.
        ours = {name.upper() for name in Settings.model_fields}
        inherited = {name: value for name, value in os.environ.items() if name.upper() not in ours}
        with self._out.open("wb") as out, self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                self._command,
                env={**inherited, **self._settings},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,  # so that its children can be ended with it
            )
        self.process = psutil.Process(self._popen.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._popen.returncode is None:  # once it is reaped, its number may be that of somebody else
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    @property
    def over(self) -> bool:
        """Whether it has ended. Until `check` it is not reaped, so its CPU time can still be read."""
        return self._popen.returncode is not None or self.process.status() == psutil.STATUS_ZOMBIE

    def stop(self) -> None:
        """Ends it by SIGTERM. Raises BenchmarkFailed unless it ends well."""
        self._popen.send_signal(signal.SIGTERM)
        self.check()

    def end(self) -> None:
        """Asks it to end by SIGTERM and waits for that, however it ends; leaving the context ends what is left."""
        self._popen.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + END_DEADLINE_S
        while not self.over and time.monotonic() < deadline:
            time.sleep(0.02)

    def check(self) -> None:
        """Waits for its end. Raises BenchmarkFailed unless it ends well."""
        try:
            code = self._popen.wait(END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise self.failed("did not end") from None
        if code != 0:
            raise self.failed(f"ended with {code}")

    def result(self) -> dict[str, Any]:
        """The JSON object that it printed on stdout, once it ended. Raises BenchmarkFailed."""
        self.check()
        try:
            found: dict[str, Any] = json.loads(self._out.read_text().splitlines()[-1])
        except (IndexError, ValueError):
            raise self.failed("printed no JSON") from None
        return found

    def said(self, field: str) -> Any:
        """The latest value of a field in the JSON lines that it has printed so far; None if it has printed none."""
        for line in reversed(self._out.read_text(errors="replace").splitlines()):
            with contextlib.suppress(ValueError):
                report = json.loads(line)
                if isinstance(report, dict) and field in report:
                    return report[field]
        return None

    def failed(self, how: str) -> BenchmarkFailed:
        """The error to raise, with the end of what it printed."""
        tail = "".join(file.read_text(errors="replace")[-2000:] for file in (self._out, self._log))
        said = [line.strip() for line in tail.splitlines() if line.strip()]
        reason = f"{self._name} {how}" + (f": {said[-1]}" if said else "")
        return BenchmarkFailed(f"{' '.join(self._command)}: {how}\n{tail}", reason)
