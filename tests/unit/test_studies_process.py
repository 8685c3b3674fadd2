"""Processes under measurement: how they end, what they report, and what they use."""

import sys
import time

import psutil
import pytest

from common.errors import UsageError
from studies.meter import Meter
from studies.process import Process, StudyFailed, until
from tests.waiting import eventually

SLEEP = "import time; time.sleep(600)"


def python(code: str, *, isolated: bool = False, forwarded: bool = False) -> Process:
    """A process that runs some code."""
    return Process("it", [sys.executable, "-c", code], isolated=isolated, forwarded=forwarded)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; print('Traceback\\nwhy', file=sys.stderr); exit(3)", "it ended with exit code 3: why"),
        ("import os; os.kill(os.getpid(), 9)", r"it was ended by SIGKILL \(out of memory\?\)"),
    ],
)
def test_a_process_that_fails_says_why(code: str, reason: str) -> None:
    """The error has how it ended and the last line that it printed; the rest is in `output`."""
    with python(code) as process, pytest.raises(StudyFailed, match=f"^{reason}$") as failed:
        process.check()
    assert "Traceback" in failed.value.output or not failed.value.output


def test_a_command_that_does_not_exist() -> None:
    """A mistake of the user's."""
    with pytest.raises(UsageError, match="/no/such: can't be run: No such file"), Process("it", ["/no/such"]):
        pass


@pytest.mark.parametrize("forwarded", [False, True])
def test_leaving_the_context_ends_the_process(forwarded: bool) -> None:
    """Nothing that a study started outlives it."""
    with python(SLEEP, forwarded=forwarded) as process:
        assert not process.over
    assert not psutil.pid_exists(process.pid)


def test_an_isolated_process_sees_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of the environment nor a .env of the user's."""
    monkeypatch.setenv("SEED", "1")
    code = (
        "import json, os; print(json.dumps({'seed': os.environ.get('SEED'), 'files': sorted(os.listdir())}))"
    )
    with python(code, isolated=True) as process:
        assert process.result() == {"seed": None, "files": ["log", "out"]}


async def test_reports_are_read_while_it_runs() -> None:
    """The latest value of a field in its JSON lines, among other lines."""
    code = 'import time; print(\'{"n": 1}\\nnoise\\n{"n": 2}\', flush=True); time.sleep(600)'
    with python(code) as process:
        assert await eventually(lambda: process.reported("n")) == 2
        assert process.reported("m") is None


async def test_waiting_ends_when_a_watched_process_fails() -> None:
    """There is no point in waiting for what it should have done."""

    async def never() -> bool:
        return False

    with python("exit(1)") as process, pytest.raises(StudyFailed, match="it ended with exit code 1"):
        await until(never, process, what="something")


async def test_waiting_has_a_deadline() -> None:
    """The error says what did not happen."""

    async def never() -> bool:
        return False

    with pytest.raises(StudyFailed, match=r"^something: not within 0 s$"):
        await until(never, what="something", deadline_s=0)


def test_cpu_time_counts_from_the_start() -> None:
    """What this process has used before does not count."""
    meter = Meter({"us": psutil.Process().pid})
    meter.start()
    began_s = time.process_time()
    while time.process_time() < began_s + 0.1:
        pass
    meter.sample()
    assert 0.05 <= meter.cpu_s()["us"] <= time.process_time() - began_s + 0.05
