"""Rounds of the benchmark: medians, and what becomes of those who fail."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from studies.bench.__main__ import names
from studies.bench.figures import Measured, figure
from studies.bench.peers.catalogue import PEERS
from studies.bench.peers.port import NotAvailable
from studies.bench.rounds import Rounds, Scenario
from studies.meter import Meter
from studies.process import BenchmarkFailed, Launched
from tests.waiting import eventually


def measured(who: str, elapsed_s: float, work: str = "publish") -> Measured:
    return Measured(
        work, 1, 1000, elapsed_s, {"producer": elapsed_s}, {"producer": 50.0, "rabbitmq": 99.0}, who
    )


def scenario(who: str, *answers: float | Exception) -> Scenario:
    """Gives these times, one a round."""
    left = list(answers)

    async def take() -> list[Measured]:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [measured(who, answer)]

    return Scenario(who, take)


def test_a_figure_is_the_median_of_its_rounds() -> None:
    """Rates, CPU per million messages and memory; the servers' memory is left out."""
    found = figure([measured("ours", elapsed_s) for elapsed_s in (1.0, 4.0, 2.0)])
    assert found["rate_per_s"] == 500
    assert found["rates_per_s"] == [1000, 250, 500]
    assert found["cpu_s_per_million"] == {"producer": 2000.0}
    assert found["peak_rss_mb"] == {"producer": 50.0}


async def test_a_peer_that_fails_is_left_out_and_the_others_go_on() -> None:
    """One failure costs it all its figures, and it is not tried again; the reason is kept in a line."""
    rounds = Rounds()
    trouble = BenchmarkFailed("worker: ended before its time\nTraceback\nRefused: no such queue\n")
    both = [scenario("peer", 1.0, trouble), scenario("ours", 1.0, 2.0, 3.0)]
    for title in ("round 1", "round 2", "round 3"):
        await rounds.add(both, title)
    assert rounds.failures == {"peer": "worker: ended before its time … Refused: no such queue"}
    assert [(one["who"], one["rate_per_s"]) for one in rounds.figures()] == [("ours", 500)]


@pytest.mark.parametrize(
    ("said", "recorded"),
    [
        ('File "/home/some one/worker.py", line 3', 'File "worker.py", line 3'),
        ("[Errno 2] No such file: '/opt/broker/sock'", "[Errno 2] No such file: 'sock'"),
        ("cc -I/usr/include -o /tmp/client: PATH=/usr/bin:/bin", "cc include -o client: PATH=bin:bin"),
        ("no unix:///var/run/a.sock, ~/b nor (/c/d.py:7)", "no a.sock, b nor (d.py:7)"),
        (
            "3 of 100 sent, 1/2 of it twice: scripts/x.sh, https://a.b/c",
            "3 of 100 sent, 1/2 of it twice: scripts/x.sh, https://a.b/c",
        ),
    ],
)
def test_no_path_is_recorded(said: str, recorded: str) -> None:
    """Of an absolute path the last part is left, whoever said it; ratios, links and paths in here stay."""
    rounds = Rounds()
    for number, error in enumerate((BenchmarkFailed(said), NotAvailable(said), OSError(said))):
        rounds.fail(f"peer {number}", error)
    assert set(rounds.failures.values()) == {recorded}


def test_the_reason_is_the_last_that_a_process_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recorded is who, what, and the last line without paths; command, folders and traceback stay on stderr."""
    code = "import sys; sys.stderr.write('Traceback\\n'); sys.exit(f'{sys.executable}: no queue')"
    rounds = Rounds()
    worker = Launched([sys.executable, "-c", code], {}, tmp_path / "worker", "its worker")
    with worker, pytest.raises(BenchmarkFailed) as failed:
        worker.check()
    rounds.fail("peer", failed.value)
    python = Path(sys.executable)
    assert rounds.failures == {"peer": f"its worker ended with 1: {python.name}: no queue"}
    assert f"{python}: no queue" in capsys.readouterr().err


def test_the_steady_rate_is_no_whole_time() -> None:
    """Where ramp and tail are left out of the rate, the time is that of the whole run still."""
    found = figure([replace(measured("ours", 4.0), steady_per_s=900.4)])
    assert (found["rate_per_s"], found["elapsed_s"]) == (900, 4.0)


async def test_ours_failing_fails_the_run() -> None:
    """A run of ours that does not add up must never end in a table."""
    with pytest.raises(BenchmarkFailed):
        await Rounds().add([scenario("ours", BenchmarkFailed("does not add up"))], "round 1")


def test_names_are_those_of_the_catalogue() -> None:
    """`--only` takes any case and says what there is where a name is unknown."""
    assert names("ours, aio-pika,C CLIENT") == ("ours", "aio-pika", "C client")
    with pytest.raises(argparse.ArgumentTypeError, match="no 'rq' here: there are ours, embedded, C client"):
        names("ours,rq")


def test_each_peer_has_a_module_and_a_page() -> None:
    """An entry of the catalogue can be started, and says whose advice it follows."""
    folder = Path(__file__).parent.parent.parent / "studies" / "bench" / "peers"
    for peer in PEERS:
        assert (folder / f"{peer.module}.py").exists()
        assert all(page.startswith("https://") for page in peer.docs)
        assert peer.docs


async def test_the_meter_counts_children() -> None:
    """A worker's processes are one: their memory is taken together."""
    with psutil.Popen(["sh", "-c", "sleep 60 & wait"]) as parent:
        try:
            child = (await eventually(parent.children))[0]
            await eventually(lambda: child.name() == "sleep")
            meter = Meter(worker=psutil.Process(parent.pid))
            meter.start()
            alone = [one.memory_info().rss / 1e6 for one in (parent, child)]
            assert meter.peak_mb()["worker"] == pytest.approx(sum(alone), rel=0.1)
        finally:
            for one in (*parent.children(), parent):
                one.kill()
