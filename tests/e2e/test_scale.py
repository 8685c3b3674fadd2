"""`smsim scale` as a user types it: embedded in processes of its own, and on real servers."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.pipeline import Pipeline
from tests.e2e.processes import ROOT, Launched, Launcher, run_to_end
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("font_cache")

QUICK = ("--mean-processing-time", 0.01, "--failure-rate", 0.5)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    """Commands in an empty folder, with no server."""
    launcher = Launcher(tmp_path, {})
    yield launcher
    launcher.close()


def rows(path: Path) -> list[dict[str, str]]:
    """What a study has measured so far."""
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


async def test_a_sweep_measures_draws_and_goes_on(launcher: Launcher) -> None:
    """Each point adds up, in a process of its own; called again, only what is missing is measured."""
    study = launcher.start("smsim", "scale", "--senders", "1,40", "--plain-max", 1, *QUICK)
    assert await study.ended() == 0, study.stderr
    folder = launcher.folder / "scaling"
    first = rows(folder / "points.csv")
    assert [(row["version"], row["senders"]) for row in first] == [
        ("smsim", "1"),
        ("plain", "1"),
        ("smsim", "40"),
    ]
    for row in first:
        assert int(row["sent"]) + int(row["failed"]) == int(row["messages"]) == 10 * int(row["senders"])
        assert int(row["peak_rss_bytes"]) >= int(row["base_rss_bytes"]) > 10_000_000
        assert float(row["cpu_s"]) > 0
    assert len(study.stderr.splitlines()) == 3, "a line for each point"
    written = [launcher.folder / line for line in study.stdout.splitlines()]
    assert [path.name for path in written if path.suffix == ".png"] == [
        "throughput.png",
        "per-sender.png",
        "everyone.png",
    ]
    assert all(path.stat().st_size > 0 for path in written)

    again = launcher.start("smsim", "scale", "--senders", "1,2,40", "--plain-max", 0, *QUICK)
    assert await again.ended() == 0, again.stderr
    assert rows(folder / "points.csv")[:3] == first
    assert [row["senders"] for row in rows(folder / "points.csv")[3:]] == ["2"]

    other = launcher.start("smsim", "scale", "--senders", "1", "--mean-processing-time", 0.02)
    assert await other.ended() == 2
    assert "measured with" in other.stderr


async def test_ctrl_c_leaves_what_is_measured(launcher: Launcher) -> None:
    """The points before it stay, the process of the one in hand is ended, and the exit code is that of Ctrl-C."""
    # 1,000 messages, then 20 million.
    arguments = ("--senders", "10,200000", "--plain-max", 0, "--messages-per-sender", 100)
    study = launcher.start("smsim", "scale", *arguments, "--mean-processing-time", 0.001)
    points = launcher.folder / "scaling" / "points.csv"
    await eventually(lambda: rows(points), 60)
    child = await eventually(lambda: _child_of(study))
    study.signal(signal.SIGINT)
    assert await study.ended() == 130
    assert [row["senders"] for row in rows(points)] == ["10"]
    assert not psutil.pid_exists(child.pid)
    assert "Traceback" not in study.stderr


def _child_of(study: Launched) -> psutil.Process | None:
    children = psutil.Process(study.pid).children()
    return children[0] if children else None


async def test_a_sweep_on_real_servers_leaves_nothing_behind(pipeline: Pipeline) -> None:
    """Each load adds up to the message; afterwards its queues are deleted and its runs forgotten."""
    study = pipeline.start(
        *("smsim", "scale", "--distributed", "--processes", "1,2", "--batch-sizes", "50"),
        *("--num-messages", 2_000, "--slots", 500, "--seed", 5),
    )
    assert await study.ended() == 0, study.stderr
    measured = rows(pipeline.folder / "scaling" / "distributed.csv")
    assert [(row["processes"], row["batch_size"]) for row in measured] == [("1", "50"), ("2", "50")]
    for row in measured:
        assert int(row["sent"]) + int(row["failed"]) == int(row["messages"]) == 2_000
        assert float(row["rate_per_s"]) > 0
    assert measured[0]["failed"] == measured[1]["failed"], "the same seed, the same failures"
    assert (pipeline.folder / "scaling" / "distributed.svg").exists()
    assert len(study.stderr.splitlines()) == 2, "a line for each point"
    assert await pipeline.ledger.runs() == []
    assert not [name for name in pipeline.rabbit.queue_depths() if name.startswith("scale-")]
    # docs/scaling.md says what stays.
    stays: list[str] = pipeline.redis.keys("*")  # type: ignore[assignment]  # a sync client's answer
    for_good = {key for key in stays if pipeline.redis.ttl(key) == -1}
    assert for_good == {"sms:stats", "sms:latency"}
    assert sum(key.endswith(":forgotten") for key in stays) == 2
    assert sum(key.startswith("sms:sender:scale-") for key in stays) == 3
    assert len(stays) == 2 + 2 + 3


async def test_runs_of_others_are_warned_of(pipeline: Pipeline) -> None:
    """One line before the first point, since their common totals will have the study's messages too."""
    await pipeline.ledger.begin("theirs", "{}", 10, "somebody")
    study = pipeline.start(
        *("smsim", "scale", "--distributed", "--processes", 1, "--batch-sizes", 50, "--num-messages", 100)
    )
    assert await study.ended() == 0, study.stderr
    warning, _ = study.stderr.splitlines()
    assert warning.startswith("The ledger holds other runs (1)")
    assert await pipeline.ledger.runs() == ["theirs"]


@pytest.fixture
def hangups_end_programs() -> Iterator[None]:
    """Also where the tests themselves run under nohup, which every program that they start would inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups_end_programs")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 143)])
async def test_a_sweep_on_servers_that_is_stopped_leaves_nothing_behind_either(
    pipeline: Pipeline, number: signal.Signals, code: int
) -> None:
    """Ctrl-C, or a terminal that closes, in the middle of a run: its processes are ended, its queues deleted, its run
    given up and forgotten.
    """
    study = pipeline.start(
        *("smsim", "scale", "--distributed", "--processes", 1, "--batch-sizes", 10),
        *("--num-messages", 1_000, "--slots", 100, "--mean-processing-time", 600),
    )

    async def in_hand() -> bool:
        return (await pipeline.ledger.snapshot()).sending == 100

    await eventually(in_hand)
    children = psutil.Process(study.pid).children()
    study.signal(number)
    assert await study.ended() == code, study.stderr
    assert children
    assert not [child for child in children if child.is_running()]
    assert await pipeline.ledger.runs() == []
    assert not [name for name in pipeline.rabbit.queue_depths() if name.startswith("scale-")]
    total = await pipeline.ledger.snapshot()
    assert (total.published, total.failed, total.queued, total.sending) == (1_000, 1_000, 0, 0)


SOMEBODYS = {
    "RABBITMQ_USER": "somebody",
    "RABBITMQ_PASSWORD": "secret",
    "RABBITMQ_TLS": "true",
    "REDIS_PASSWORD": "secret",
    "REDIS_TLS": "true",
    "FAILURE_RATE": "0.7",
    "SEED": "1",
    "MAX_ATTEMPTS": "5",
    "KEEP_FAILED": "true",
    "PROVIDER_PROFILE": "slow",
}


def on_servers(folder: Path, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Runs `smsim` under studies/on_servers.py in a folder whose .env has settings of somebody's."""
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in SOMEBODYS.items()))
    smsim = os.path.relpath(Path(sys.executable).with_name("smsim"), folder)
    bare, rest = ([arguments[0]], arguments[1:]) if arguments[0] == "--none" else ([], arguments)
    command = [sys.executable, "-m", "studies.on_servers", *bare, smsim, *rest]
    return run_to_end(command, folder, {**os.environ, **env, "PYTHONPATH": str(ROOT)})


def parameters_of(folder: Path, study: str) -> dict[str, Any]:
    """Under what parameters it was measured."""
    found: dict[str, Any] = json.loads((folder / f"{study}.json").read_text())["parameters"]
    return found


def test_a_recorded_study_is_measured_with_no_settings_of_the_users(tmp_path: Path) -> None:
    """Neither those of .env nor those of the environment; what is written comes to where the user is."""
    arguments = ("scale", "--senders", "5", "--plain-max", "0", "--mean-processing-time", "0.01")
    study = on_servers(tmp_path, "--none", *arguments, "--out", "here", failure_rate="0.6", MAX_ATTEMPTS="3")
    assert study.returncode == 0, study.stderr
    assert len(rows(tmp_path / "here" / "points.csv")) == 1
    parameters = parameters_of(tmp_path / "here", "points")
    assert (parameters["failure_rate"], parameters["seed"]) == (0.1, None)


@pytest.mark.usefixtures("rabbit_server", "redis_server")  # which say where there are none to be had
def test_a_recorded_study_on_servers_uses_those_it_was_given(tmp_path: Path) -> None:
    """Whatever servers, passwords and certificates the user has elsewhere."""
    arguments = ("scale", "--distributed", "--processes", "1", "--batch-sizes", "50", "--num-messages", "500")
    study = on_servers(tmp_path, *arguments, "--out", str(tmp_path / "there"), REDIS_PASSWORD="another")
    assert study.returncode == 0, study.stderr
    assert len(rows(tmp_path / "there" / "distributed.csv")) == 1
    parameters = parameters_of(tmp_path / "there", "distributed")
    assert (parameters["failure_rate"], parameters["seed"]) == (0.1, None)


@pytest.mark.parametrize("arguments", [("scale",), ("scale", "--out")])
def test_what_would_be_written_nowhere_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The folder that it runs in goes with it."""
    refused = on_servers(tmp_path, *arguments)
    assert (refused.returncode, refused.stderr[:6]) == (2, "usage:")


def test_a_chart_that_cannot_be_written_is_no_traceback(tmp_path: Path) -> None:
    """A folder in its place: one line, exit code 1, and what was measured stays."""
    (tmp_path / "here" / "throughput.png").mkdir(parents=True)
    arguments = ("scale", "--senders", "5", "--plain-max", "0", "--mean-processing-time", "0.01")
    study = on_servers(tmp_path, "--none", *arguments, "--out", "here")
    assert study.returncode == 1
    assert study.stderr.splitlines()[1:] == [
        f"smsim scale: {tmp_path / 'here' / 'throughput.png'}: can't be written: Is a directory"
    ]
    assert len(rows(tmp_path / "here" / "points.csv")) == 1
