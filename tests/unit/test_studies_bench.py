"""`make bench` and `make bench-smoke`: medians, failures of peers, tables and the comparison with the record."""

import argparse
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from studies.bench.__main__ import names
from studies.bench.chart import draw
from studies.bench.figures import BenchRecord, Figure, Measured, PeerNote, Work
from studies.bench.peers.catalogue import PEERS
from studies.bench.peers.port import NotAvailable
from studies.bench.rounds import Rounds, Scenario
from studies.bench.smoke import Comparison, comparisons
from studies.bench.table import markdown
from studies.process import StudyFailed
from studies.record import Machine

RATES = {"ours": 20_000, "plain pika": 1_000, "aio-pika": 4_000, "C client": 40_000}


def measured(who: str, elapsed_s: float) -> Measured:
    costs = ({"producer": elapsed_s}, {"producer": 50.0, "rabbitmq": 99.0})
    return Measured(who, Work("publish", 1, 1000), elapsed_s, *costs)


def scenario(who: str, *answers: float | Exception) -> Scenario:
    """Takes these times, one a round."""
    left = list(answers)

    async def take() -> list[Measured]:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [measured(who, answer)]

    return Scenario(who, take)


def figure(who: str, work: str, rate: int, *, batch_size: int = 1, messages: int = 1000) -> Figure:
    return Figure(
        who=who,
        work=work,
        batch_size=batch_size,
        messages=messages,
        rate_per_s=rate,
        rates_per_s=[rate - 1, rate, rate + 1],
        elapsed_s=1.0,
        cpu_s_per_million={"producer": 10.0, "sender": 250.0, "rabbitmq": 5.0, "redis": 0.5},
        peak_rss_mb={"producer": 60.4, "sender": 70.6},
    )


def record(rates: dict[str, int], *more: Figure, peers: list[PeerNote] | None = None) -> BenchRecord:
    works = ("publish", "consume", "both at once")
    return BenchRecord(
        measured_at="2026-11-21",
        machine=Machine(cores=2, memory_gb=8.0, cpu="a CPU", system="Linux 6"),
        versions={"python": "3.11"},
        rounds=3,
        scale=1.0,
        sender_concurrency=100,
        peers=peers or [],
        figures=[*(figure(who, work, rate) for who, rate in rates.items() for work in works), *more],
    )


def test_a_figure_is_the_median_of_its_rounds() -> None:
    """Rates, CPU per million messages and memory; the servers' memory is left out."""
    found = Figure.of([measured("ours", elapsed_s) for elapsed_s in (1.0, 4.0, 2.0)])
    assert found.rate_per_s == 500
    assert found.rates_per_s == [1000, 250, 500]
    assert found.cpu_s_per_million == {"producer": 2000.0}
    assert found.peak_rss_mb == {"producer": 50.0}


def test_a_steady_rate_leaves_the_time_of_the_whole_run() -> None:
    """The rate is that of the steady phase, the elapsed time is not."""
    found = Figure.of([replace(measured("ours", 4.0), steady_per_s=900.4)])
    assert (found.rate_per_s, found.elapsed_s) == (900, 4.0)


async def test_a_peer_that_fails_is_left_out_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """It loses all its figures and is not tried again. The reason is recorded, the output goes to stderr."""
    rounds = Rounds()
    both = [scenario("peer", 1.0, StudyFailed("no queue", "a traceback")), scenario("ours", 1.0, 2.0, 3.0)]
    for title in ("round 1", "round 2", "round 3"):
        await rounds.add(both, title)
    assert rounds.failures == {"peer": "no queue"}
    assert [(one.who, one.rate_per_s) for one in rounds.figures()] == [("ours", 500)]
    assert "a traceback" in capsys.readouterr().err


async def test_a_failure_of_ours_fails_the_bench() -> None:
    """A run of ours that does not add up must never end in a table."""
    with pytest.raises(StudyFailed):
        await Rounds().add([scenario("ours", StudyFailed("does not add up"))], "round 1")


@pytest.mark.parametrize(
    ("said", "recorded"),
    [
        ('File "/home/some one/worker.py", line 3', 'File "worker.py", line 3'),
        ("[Errno 2] No such file: '/opt/broker/sock'", "[Errno 2] No such file: 'sock'"),
        ("cc -I/usr/include -o /tmp/client: PATH=/usr/bin:/bin", "cc include -o client: PATH=bin:bin"),
        ("no unix:///var/run/a.sock, ~/b nor (/c/d.py:7)", "no a.sock, b nor (d.py:7)"),
        (
            "3 of 100, 1/2 twice: scripts/x.sh, https://a.b/c",
            "3 of 100, 1/2 twice: scripts/x.sh, https://a.b/c",
        ),
    ],
)
def test_no_path_is_recorded(said: str, recorded: str) -> None:
    """Only the last part of an absolute path is recorded; ratios, links and relative paths stay."""
    rounds = Rounds()
    for number, error in enumerate((StudyFailed(said), NotAvailable(said), OSError(said))):
        rounds.fail(f"peer {number}", error)
    assert set(rounds.failures.values()) == {recorded}


def test_names_are_those_of_the_catalogue() -> None:
    """`--only` ignores case and lists the names if one is unknown."""
    assert names("ours, aio-pika,C CLIENT") == ("ours", "aio-pika", "C client")
    with pytest.raises(argparse.ArgumentTypeError, match="no 'rq' here: there are ours, embedded, C client"):
        names("ours,rq")


def test_each_peer_has_a_module_and_a_page() -> None:
    """An entry of the catalogue can be started, and names the advice that it follows."""
    for peer in PEERS:
        assert find_spec(f"studies.bench.peers.{peer.module}")
        assert peer.docs
        assert all(page.startswith("https://") for page in peer.docs)


def test_the_table_compares_at_both_at_once_fastest_first() -> None:
    """Each row has ours / it. Batches do not count. A sentence names the best Python peer and the C client's share."""
    found = markdown(record(RATES, figure("ours", "both at once", 400_000, batch_size=100)))
    order = [line.split(" | ")[0].strip("| *") for line in found.splitlines() if line.startswith("| ")]
    assert order[:5] == ["who", "---", "C client", "ours", "aio-pika"]
    row = (
        "| aio-pika | 4,000 | 4,000 | **4,000** (3,999 to 4,001) | 5.00 | 10.0 | 250 | 5.0 | 0.5 | 60 | 71 |"
    )
    assert row in found
    assert (
        "ours does 5.0 times what the best Python peer does (aio-pika) and 50% of what the C client" in found
    )


def test_a_peer_that_failed_is_named_with_its_reason() -> None:
    """It has no row, and no figure of it is made up."""
    missing = PeerNote("C client", publishes="", works="", docs=[], failure="needs librabbitmq")
    found = markdown(record({"ours": 20_000, "plain pika": 1_000}, peers=[missing]))
    assert "Not measured: C client: needs librabbitmq." in found
    assert "of what the C client does" not in found


def test_the_chart_is_the_same_for_the_same_figures(tmp_path: Path) -> None:
    """Drawn twice, not a byte differs; other figures give another chart."""
    drawn = []
    for ours in 20_000, 20_000, 30_000:
        draw(record({**RATES, "ours": ours}), tmp_path / "chart.json")
        drawn.append((tmp_path / "chart.svg").read_text())
    first, second, other = drawn
    assert first == second != other
    assert all(text in first for text in ("aio-pika", "(no counters)", "40,000"))


def first_comparison(now: BenchRecord, before: BenchRecord) -> Comparison:
    return comparisons(now, before)[0]


def test_smoke_tells_a_slower_machine_from_slower_code() -> None:
    """Half as fast at everything is no change; ours alone at half speed is 0.5. The unknown stays empty."""
    before = record({"ours": 20_000, "plain pika": 1_000})
    machine = first_comparison(record({"ours": 10_000, "plain pika": 500}), before)
    code = first_comparison(record({"ours": 10_000, "plain pika": 1_000}), before)
    assert (machine.ratio, machine.recorded, machine.change) == (20, 20, 1)
    assert (code.ratio, code.recorded, code.change) == (10, 20, 0.5)
    alone = first_comparison(record({"ours": 10_000}), before)
    assert (alone.ratio, alone.change) == (None, None)


def test_smoke_compares_batches_with_single_messages_of_plain_pika() -> None:
    """Plain pika has no batches: its rate at the same work is the yardstick for every batch size."""
    batches = figure("ours", "publish", 500_000, batch_size=100)
    now = record({"ours": 20_000, "plain pika": 1_000}, batches)
    assert comparisons(now, now)[-1].ratio == 500


def test_smoke_compares_only_runs_of_as_many_messages() -> None:
    """Begin and end weigh more in a short run."""
    now = record({"ours": 20_000, "plain pika": 1_000})
    more = [msgspec.structs.replace(one, messages=3_000) for one in now.figures]
    before = msgspec.structs.replace(now, figures=more)
    assert first_comparison(now, before).recorded is None
