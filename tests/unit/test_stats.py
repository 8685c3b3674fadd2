"""`smsim stats`: its samples, the figures made of them, and its files."""

import asyncio
import csv
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import Unavailable
from studies.meter import Usage
from studies.stats.cli import main
from studies.stats.figures import Share, cpu_percent, shares
from studies.stats.processes import Processes, service_name
from studies.stats.sampling import AFTER, BEFORE, DURING, Sample, Sampler, Timing
from studies.stats.study import Run
from tests.waiting import eventually

MB = 1_000_000
BUSY = "import time\nwhile time.process_time() < 0.2: pass\n"
"""Takes 0.2 s of CPU time on a machine of any speed; the system counts it to 0.02 s."""

pytestmark = pytest.mark.usefixtures("font_cache", "process_as_before", "bare_environment")


@contextmanager
def python(code: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A child that runs some code, and is killed at the end."""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


def sample(at_s: float, phase: str = DURING, volume: int | None = None, **usage: tuple[float, int]) -> Sample:
    return Sample(at_s, phase, volume, {name: Usage(cpu_s, mb * MB) for name, (cpu_s, mb) in usage.items()})


def test_cpu_is_the_share_of_a_core_between_two_samples() -> None:
    """Half a second of CPU in a second is 50 %, two cores are 200 %; the first sample has no figure."""
    samples = [sample(0, a=(1, 5)), sample(1, a=(1.5, 5)), sample(2, a=(3.5, 5))]
    assert cpu_percent(samples, "a", 1) == [None, pytest.approx(50), pytest.approx(200)]


def test_cpu_of_samples_close_together_counts_from_an_earlier_one() -> None:
    """A clock tick of 10 ms, 1 ms after the sample before, is no peak of 1,000 %."""
    samples = [sample(0, a=(0, 5)), sample(1, a=(0.5, 5)), sample(1.001, a=(0.51, 5)), sample(2, a=(0.51, 5))]
    percents = cpu_percent(samples, "a", 1)
    assert percents[2] == pytest.approx(51, rel=0.01)
    assert percents[3] == pytest.approx(0, abs=2)


def test_cpu_of_a_service_that_comes_and_goes() -> None:
    """While it is absent it has no figure, rather than 0."""
    samples = [
        sample(0),
        sample(1, a=(0, 5)),
        sample(2, a=(1, 5)),
        sample(3),
        sample(4, a=(1, 5)),
        sample(5, a=(1.5, 5)),
    ]
    assert cpu_percent(samples, "a", 1) == [None, None, pytest.approx(100), None, None, pytest.approx(50)]


def test_a_share_is_the_usage_within_the_run() -> None:
    """CPU from the last sample before the run to the last in it, and the most memory in it."""
    samples = [
        sample(0, BEFORE, 10, a=(7.0, 50)),
        sample(1, BEFORE, 10, a=(7.5, 51)),
        sample(1.1, DURING, 10, a=(7.5, 52)),
        sample(2, DURING, 10, a=(8.5, 90), b=(0.2, 30)),
        sample(3, DURING, 10, a=(9.5, 60), b=(0.7, 0)),
        sample(4, AFTER, 10, a=(20, 99)),
        sample(5, AFTER, 10, a=(20, 55)),
        sample(6, BEFORE, 20, a=(20, 54)),
        sample(7, DURING, 20, a=(21, 54), b=(0.7, 31)),
        sample(8, DURING, 20, a=(21, 54), b=(1.0, 0)),
    ]
    first = shares(samples, Run(10, 2.0, code=0, first=2, beyond=5))
    assert first == {"a": Share(2.0, 100.0, 90.0, 51.0, 55.0), "b": Share(0.5, 25.0, 30.0, None, None)}
    assert shares(samples, Run(20, 2.0, code=0, first=8, beyond=10))["b"].cpu_s == pytest.approx(0.3)


def test_runs_of_one_volume_are_kept_apart() -> None:
    """Memory before and after a run is that next to it, also where a volume is run again."""
    megabytes = [(BEFORE, 10), (DURING, 50), (AFTER, 11), (BEFORE, 20), (DURING, 60), (AFTER, 21)]
    samples = [sample(at_s, phase, 5, a=(at_s, mb)) for at_s, (phase, mb) in enumerate(megabytes)]
    found = [shares(samples, Run(5, 1.0, code=0, first=first, beyond=first + 1))["a"] for first in (1, 4)]
    assert [(share.before_mb, share.after_mb) for share in found] == [(10.0, 11.0), (20.0, 21.0)]


async def test_a_process_counts_with_its_children() -> None:
    """Memory and CPU of a grandchild show, and its CPU stays when it has ended."""
    spend = BUSY + "x = bytearray(64_000_000); print(flush=True); input()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spend!r}]); input()"
    with python(code) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        processes = Processes()
        processes.add(child.pid, "it")
        child.stdout.readline()
        with_grandchild = (await processes.sample())["it"]
        assert with_grandchild.memory_bytes > 64 * MB
        assert with_grandchild.cpu_s >= 0.18
        child.stdin.write(b"\n")
        child.stdin.flush()
        alone = await eventually(lambda: lighter(processes))
        assert alone.cpu_s >= with_grandchild.cpu_s


async def lighter(processes: Processes) -> Usage | None:
    usage = (await processes.sample())["it"]
    return usage if usage.memory_bytes < 64 * MB else None


async def test_a_process_that_ends_is_seen_once_more() -> None:
    """Its last sample has all its CPU time and no memory; then it is missing."""
    with python(BUSY) as child:
        processes = Processes()
        processes.add(child.pid, "it")

        # A process that is about to end may have no memory and be no zombie yet.
        looks: list[dict[str, Usage]] = []

        async def gone() -> bool:
            looks.append(await processes.sample())
            return looks[-1] == {}

        await eventually(gone)
        last = looks[-2]["it"]
        assert last.memory_bytes == 0
        assert last.cpu_s >= 0.18


async def test_processes_of_one_name_are_one_service() -> None:
    """Five senders are one line in a chart; the end of one of them takes only its memory away."""
    with python("input()") as one, python("input()") as other:
        processes = Processes()
        assert processes.add(one.pid, "sender") == processes.add(other.pid, "sender") == "sender"
        both_bytes = (await processes.sample())["sender"].memory_bytes
        other.kill()
        other.wait()
        await processes.sample()
        assert 0 < (await processes.sample())["sender"].memory_bytes < both_bytes


@pytest.mark.parametrize(
    ("program", "argv", "name"),
    [
        ("redis-server", ["redis-server *:6379"], "redis-server"),
        ("python3.11", ["/usr/bin/python3.11", "-u", "/app/producer.py", "--wait"], "producer"),
        ("python", ["python", "-m", "studies.bench"], "studies.bench"),
        ("python", ["python"], "python"),
        ("python", ["python", "-c", "print(1)"], "python"),
    ],
)
def test_a_process_without_a_given_name(program: str, argv: list[str], name: str) -> None:
    """A Python program is known by its script."""
    assert service_name(program, argv) == name


class FakeServices:
    """Services that exist for a number of samples."""

    def __init__(self, **looks: int) -> None:
        self._looks = looks
        self.taken = 0

    async def sample(self) -> dict[str, Usage]:
        self.taken += 1
        return {name: Usage(self.taken, MB) for name, looks in self._looks.items() if self.taken <= looks}


async def test_each_phase_has_a_sample_at_its_begin_and_its_end() -> None:
    """However short it is against the interval; and samples say to which phase they belong."""
    sampler = Sampler([FakeServices(a=100)], Timing(3600, end_every_s=0), asyncio.Event())
    for phase in BEFORE, DURING:
        polls = iter((False, False, True))
        await sampler.until(lambda polls=polls: next(polls), phase, 5)  # type: ignore[misc]
    await sampler.for_seconds(0, AFTER, 5)
    assert [one.phase for one in sampler.samples] == [BEFORE, BEFORE, DURING, DURING]
    assert sampler.samples[0].at_s == 0


async def test_services_that_end_are_noted_once() -> None:
    """With the moment at which they were missed, unless they are expected to end. Same names are added up."""
    services = [FakeServices(a=1, b=100, command=1), FakeServices(b=100)]
    sampler = Sampler(services, Timing(3600), asyncio.Event())
    sampler.expected.add("command")
    for _ in range(4):
        await sampler.take(DURING)
    assert sampler.ended_s == {"a": sampler.samples[1].at_s}
    assert sampler.samples[1].usage == {"b": Usage(4, 2 * MB)}


class FakeEngine(FakeServices):
    """Does not answer these samples, counted from 1."""

    def __init__(self, *fails: int) -> None:
        super().__init__(engine=1_000_000)
        self._fails = fails

    async def sample(self) -> dict[str, Usage]:
        usage = await super().sample()
        if self.taken in self._fails:
            raise Unavailable("no Docker engine answers")
        return usage


async def test_a_sample_without_an_answer_is_skipped() -> None:
    """Also often, if others succeed between them; no service counts as ended because of it."""
    sampler = Sampler([FakeEngine(*range(2, 11), *range(12, 21))], Timing(3600), asyncio.Event())
    for _ in range(21):
        await sampler.take(DURING)
    assert [one.usage["engine"].cpu_s for one in sampler.samples] == [1, 11, 21]
    assert sampler.skipped == 18
    assert sampler.ended_s == {}


@pytest.mark.parametrize(("fails", "looks"), [(range(1, 2), 1), (range(2, 12), 11)])
async def test_an_engine_that_stops_answering_ends_the_study(fails: range, looks: int) -> None:
    """At once if it did not answer the first sample, otherwise after ten in a row."""
    sampler = Sampler([FakeEngine(*fails)], Timing(3600), asyncio.Event())
    for _ in range(looks - 1):
        await sampler.take(DURING)
    with pytest.raises(Unavailable):
        await sampler.take(DURING)


@pytest.mark.parametrize("observed", [["--seconds", "60"], ["--lead", "0", "--", "sleep", "60"]])
def test_samples_before_the_engine_stopped_are_written(
    observed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The run that broke off is in the files and in the summary, the command is ended, and the exit code is 1."""
    monkeypatch.setattr(Processes, "sample", FakeEngine(*range(3, 1_000)).sample)
    watched = ["--watch", str(os.getpid()), "--interval", "0.05", "--out", str(tmp_path), "--json"]
    assert main([*watched, *observed]) == 1
    out, err = capfd.readouterr()
    assert err.splitlines()[-1] == "smsim stats: no Docker engine answers"
    summary = json.loads(out)
    assert (summary["samples"], summary["skipped"], len(summary["runs"])) == (2, 10, 1)
    assert (tmp_path / "samples.csv").read_text().count("engine") == 2


def test_a_run_without_samples_is_in_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With its time and its exit code, and without services."""
    monkeypatch.setattr(Processes, "sample", FakeEngine(*range(2, 11)).sample)
    quiet = ["--interval", "3600", "--lead", "0.01", "--trail", "0.01", "--out", str(tmp_path), "--json"]
    assert main([*quiet, "--volumes", "5", "--", "test", "{n}"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert [(run["volume"], run["exit_code"], run["services"]) for run in summary["runs"]] == [(5, 0, {})]


@pytest.mark.parametrize("name", ["usage.png", "volumes.csv"])
def test_results_that_cannot_be_written(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line that says which and why, exit code 1."""
    (tmp_path / name).mkdir()
    quiet = ["--lead", "0", "--trail", "0", "--interval", "0.05", "--out", str(tmp_path)]
    assert main([*quiet, "--volumes", "1", "--", "test", "{n}"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    # Matplotlib may report that its first chart takes long.
    assert err.splitlines()[-1] == f"smsim stats: {tmp_path / name}: can't be written: Is a directory"


ONCE_SEEN = """
import pathlib, sys, time
look = pathlib.Path(sys.argv[1])
look.unlink()
while not look.exists():
    time.sleep(0.01)
began_s = time.process_time()
while time.process_time() - began_s < {n} / 10:
    pass
print('hello', {n})
"""
"""After its first sample, takes a tenth of a second of CPU time for each unit of its volume."""


def test_a_study_of_volumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each volume is run once, between quiet times; every file is written, and stdout has only the summary."""
    looked, look = tmp_path / "looked", Processes.sample

    async def look_and_tell(processes: Processes) -> dict[str, Usage]:
        usage = await look(processes)
        looked.touch()
        return usage

    monkeypatch.setattr(Processes, "sample", look_and_tell)
    with python("input()") as server:
        often = ["--interval", "0.05", "--lead", "0.1", "--trail", "0.1", "--volumes", "1,6"]
        run = [sys.executable, "-c", ONCE_SEEN, str(looked)]
        out_folder = str(tmp_path / "out")
        code = main(["--watch", f"{server.pid}=server", *often, "--out", out_folder, "--json", "--", *run])
    out, err = capfd.readouterr()
    summary = json.loads(out)
    assert code == 0
    assert [line for line in err.splitlines() if line.startswith("hello")] == ["hello 1", "hello 6"]
    assert [(run["volume"], run["exit_code"]) for run in summary["runs"]] == [(1, 0), (6, 0)]
    small, large = (run["services"][Path(sys.executable).name]["cpu_s"] for run in summary["runs"])
    assert 0 < small < large
    assert summary["runs"][1]["services"]["server"]["before_mb"] > 0
    assert summary["ended_s"] == {}
    names = {file.name for file in (tmp_path / "out").iterdir()}
    charts = {f"{name}.{kind}" for name in ("usage", "volumes") for kind in ("png", "svg")}
    assert names == charts | {"samples.csv", "volumes.csv"}
    with (tmp_path / "out" / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["volume"], row["phase"]) for row in rows if row["service"] == "server"} == {
        (volume, phase) for volume in ("1", "6") for phase in (BEFORE, DURING, AFTER)
    }
    cpu = [float(row["cpu_s"]) for row in rows if row["service"] == "server"]
    assert cpu == sorted(cpu)


def test_a_service_that_ends_during_a_run_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """After the table; and the study goes on."""
    with python("input()") as server:
        ends_it = (
            f"import os, psutil; os.kill({server.pid}, 9)\n"
            f"while psutil.Process({server.pid}).status() != psutil.STATUS_ZOMBIE: pass"
        )
        quiet = ["--interval", "0.05", "--lead", "0.05", "--trail", "0.05"]
        command = [sys.executable, "-c", ends_it]
        assert main(["--watch", f"{server.pid}=server", *quiet, "--", *command]) == 0
    out, _ = capfd.readouterr()
    assert "server ended after " in out
    assert (tmp_path / "stats" / "usage.svg").exists()


def test_a_run_that_fails_ends_the_study(capfd: pytest.CaptureFixture[str]) -> None:
    """Its samples are written, the exit code is 1, and no further volume is run."""
    command = [sys.executable, "-c", "import sys; sys.exit({n})"]
    assert main(["--lead", "0", "--trail", "0", "--json", "--volumes", "3,4", "--", *command]) == 1
    summary = json.loads(capfd.readouterr().out)
    assert [(run["volume"], run["exit_code"]) for run in summary["runs"]] == [(3, 3)]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "nothing to sample: say --watch PID, --containers, or a command after --"),
        (["--watch", "x"], "'x' is neither PID nor PID=NAME"),
        (["--watch", "0"], "'0' is neither PID nor PID=NAME"),
        (["--watch", "1="], "'1=' is neither PID nor PID=NAME"),
        (["--watch", "999999999"], "no process 999999999"),
        (["--interval", "0", "--", "true"], "'0' is not a number from 0.05 to 3600"),
        (["--volumes", "5,x", "--", "true", "{n}"], "'x' is not a whole number of at least 1"),
        (["--volumes", "5", "--", "true"], "--volumes needs a command with {n} in it"),
        (["--", "true", "{n}"], "{n} in the command needs --volumes"),
        (["--seconds", "5", "--", "true"], "--seconds is for sampling without a command"),
        (["--watch", "1", "--"], "no command after --"),
        (["--lead", "0", "--", "/no/such/command"], "/no/such/command: can't be run: No such file"),
        (["--out", "/dev/null/x", "--", "true"], "--out /dev/null/x: can't be written"),
    ],
)
def test_bad_usage(argv: list[str], says: str, capfd: pytest.CaptureFixture[str]) -> None:
    """One line that says what is wrong, exit code 2, nothing on stdout."""
    try:
        code = main(argv)
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capfd.readouterr()
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert says in err


def test_without_the_optional_packages(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line says what to install, exit code 2."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["--watch", str(os.getpid())]) == 2
    assert capfd.readouterr().err == (
        'smsim stats: psutil and matplotlib not installed: pip install ".[study]", or make setup\n'
    )
