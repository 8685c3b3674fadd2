"""`smsim scale` as a user types it: embedded in processes of its own, and on real servers."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
    """The points that a study has measured so far."""
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
    """The points before it stay, the process of the present one is ended, and the exit code is that of Ctrl-C."""
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
    """Each load adds up; afterwards its queues are deleted and its runs forgotten. Runs of others are warned of."""
    await pipeline.ledger.begin("theirs", "{}", 10, "somebody")
    before: list[str] = pipeline.redis.keys("*")  # type: ignore[assignment]  # a sync client's answer
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
    warning, *points = study.stderr.splitlines()
    assert warning.startswith("The ledger holds other runs (1)")
    assert len(points) == 2, "a line for each point"
    assert await pipeline.ledger.runs() == ["theirs"]
    assert not [name for name in pipeline.rabbit.queue_depths() if name.startswith("scale-")]
    # As docs/scaling.md has it.
    after: list[str] = pipeline.redis.keys("*")  # type: ignore[assignment]  # a sync client's answer
    left = sorted(set(after) - set(before))
    assert {key for key in left if pipeline.redis.ttl(key) == -1} <= {"sms:stats", "sms:latency"}
    assert sum(key.endswith(":forgotten") for key in left) == 2
    assert sum(key.startswith("sms:sender:scale-") for key in left) == 3
    assert len(set(left) - {"sms:stats", "sms:latency"}) == 2 + 3


async def test_a_sweep_on_servers_that_is_stopped_leaves_nothing_behind_either(pipeline: Pipeline) -> None:
    """SIGTERM in the middle of a run: its processes are ended, its queues deleted, its run forgotten."""
    study = pipeline.start(
        *("smsim", "scale", "--distributed", "--processes", 1, "--batch-sizes", 10),
        *("--num-messages", 1_000, "--slots", 100, "--mean-processing-time", 600),
    )

    async def in_hand() -> bool:
        return (await pipeline.ledger.snapshot()).sending == 100

    await eventually(in_hand)
    children = psutil.Process(study.pid).children()
    study.signal(signal.SIGTERM)
    assert await study.ended() == 143, study.stderr
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
    """Runs `smsim` under studies/on_servers.py in a folder whose .env has other settings."""
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in SOMEBODYS.items()))
    smsim = os.path.relpath(Path(sys.executable).with_name("smsim"), folder)
    command = [sys.executable, "-m", "studies.on_servers", smsim, *arguments]
    return run_to_end(command, folder, {**os.environ, **env, "PYTHONPATH": str(ROOT)})


@pytest.mark.slow
@pytest.mark.usefixtures("rabbit_server", "redis_server")  # they skip the test where no server can be started
def test_a_recorded_study_uses_no_settings_of_the_user(tmp_path: Path) -> None:
    """It runs on servers of its own, and writes to the folder that the user named."""
    arguments = ("scale", "--distributed", "--processes", "1", "--batch-sizes", "50", "--num-messages", "500")
    study = on_servers(tmp_path, *arguments, "--out", "here", failure_rate="0.6", REDIS_PASSWORD="another")
    assert study.returncode == 0, study.stderr
    assert len(rows(tmp_path / "here" / "distributed.csv")) == 1
    parameters = json.loads((tmp_path / "here" / "distributed.json").read_text())["parameters"]
    assert (parameters["failure_rate"], parameters["seed"]) == (0.1, None)


def test_a_recorded_study_must_say_where_to_write(tmp_path: Path) -> None:
    """The folder that it runs in is removed with it."""
    refused = on_servers(tmp_path, "scale", "--out")
    assert (refused.returncode, refused.stderr[:6]) == (2, "usage:")
