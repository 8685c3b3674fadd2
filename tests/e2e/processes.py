"""The launchers as processes, in an empty working directory, with only the settings of the test."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.settings import Settings
from tests.waiting import eventually

ROOT = Path(__file__).parent.parent.parent
END_DEADLINE_S = 180.0

Env = Mapping[str, object]


class Launched:
    """A started process and its output."""

    def __init__(
        self, program: str, command: Sequence[str], folder: Path, env: dict[str, str], name: str
    ) -> None:
        self.program = program
        self.name = name
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            # Its own session, so that Ctrl-C reaches only the tests, which then end it in order.
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON lines that it has logged, on either stream."""
        lines = (self.stdout + self.stderr).split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self, event: str) -> bool:
        """Whether it has logged an event of this name."""
        return any(entry.get("event") == event for entry in self.events)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal. Waits for the end after SIGKILL only."""
        self.process.send_signal(number)
        if number is signal.SIGKILL:
            self.process.wait()

    async def ended(self, deadline_s: float = END_DEADLINE_S) -> int:
        """Waits for its end and returns its exit code."""
        await eventually(
            lambda: not self.runs, deadline_s, f"{self.name} ends; it said: {self._last_words()}"
        )
        return self.process.wait()

    def end(self) -> None:
        """Kills it if it is still running."""
        if self.runs:
            self.process.kill()
        self.process.wait()

    def _last_words(self) -> str:
        return (self.stdout + self.stderr)[-500:]


class Launcher:
    """Starts launchers with one environment. `close` ends those that still run."""

    def __init__(self, folder: Path, env: Env) -> None:
        self.folder = folder
        self.env = dict(env)
        self._launched: list[Launched] = []

    def start(self, program: str, *arguments: object, **env: object) -> Launched:
        """Starts `producer.py`, `sender.py`, `monitor.py` or `smsim` with further variables."""
        path = Path(sys.executable).with_name(program) if program == "smsim" else ROOT / program
        command = [sys.executable, str(path), *map(str, arguments)]
        name = f"{len(self._launched)}-{Path(program).stem}"
        launched = Launched(program, command, self.folder, self.environment(env), name)
        self._launched.append(launched)
        return launched

    def environment(self, more: Env | None = None) -> dict[str, str]:
        """The inherited environment without settings, plus those of the launcher and `more`."""
        ours = {name.upper() for name in Settings.model_fields}
        inherited = {name: value for name, value in os.environ.items() if name not in ours}
        return {**inherited, **{name: str(value) for name, value in {**self.env, **(more or {})}.items()}}

    def producer(self, *arguments: object, **env: object) -> Launched:
        return self.start("producer.py", *arguments, **env)

    def sender(self, *arguments: object, **env: object) -> Launched:
        return self.start("sender.py", *arguments, **env)

    def monitor(self, *arguments: object, **env: object) -> Launched:
        return self.start("monitor.py", *arguments, **env)

    async def published(self, *arguments: object, **env: object) -> dict[str, Any]:
        """Runs a producer to its end and returns its final JSON line."""
        producer = self.producer(*arguments, **env)
        assert await producer.ended() == 0, producer.stderr
        report: dict[str, Any] = json.loads(producer.stdout)
        return report

    async def statistics(self, run: str) -> dict[str, Any]:
        """The JSON object that `monitor.py --once --run RUN` prints, which must be its only output."""
        monitor = self.monitor("--once", "--run", run)
        assert await monitor.ended() == 0, monitor.stderr
        statistics: dict[str, Any] = json.loads(monitor.stdout)
        return statistics

    def close(self) -> None:
        """Ends all processes that still run."""
        for launched in self._launched:
            launched.end()


def run_to_end(
    command: Sequence[str], folder: Path, env: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end. On timeout, it is killed with its children."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)
