"""`smsim scale`: its points, their records, its charts and its usage. As processes: tests/e2e/test_scale.py."""

import csv
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from common.errors import UsageError
from common.progress import ProgressBar
from simulation import cli
from studies.process import StudyFailed
from studies.record import NotWritten, read
from studies.scale import embedded
from studies.scale.charts import draw
from studies.scale.embedded import run_pipeline
from studies.scale.points import Load, LoadParameters, LoadPoint, Parameters, Point, Task
from studies.scale.records import DistributedSweep, EmbeddedSweep, Records
from studies.scale.sweep import ladder, sweep, tasks_of
from studies.scale.table import points_markdown
from studies.scale.tasks import run_tasks

pytestmark = pytest.mark.usefixtures("bare_environment", "process_as_before")

PARAMETERS = Parameters(messages_per_sender=10, mean_s=1.0, stddev_s=0.1, failure_rate=0.1)
LOAD_PARAMETERS = LoadParameters(
    num_messages=None, slots=100, mean_s=0.0, stddev_s=0.0, failure_rate=0.1, queue_type="quorum"
)


def point(senders: int, **other: Any) -> Point:
    """A point at nine tenths of its ideal."""
    messages = 10 * senders
    values: dict[str, Any] = {
        "version": "smsim",
        "senders": senders,
        "messages": messages,
        "sent": messages - senders,
        "failed": senders,
        "elapsed_s": 12.0,
        "steady_per_s": 0.9 * senders,
        "cpu_s": 1.5,
        "peak_in_flight": senders,
        "base_rss_bytes": 70_000_000,
        "peak_rss_bytes": 70_000_000 + 200 * senders,
        "p50_s": 1.0,
        "p95_s": 1.16,
        "p99_s": 1.23,
        "ideal_per_sender_per_s": 1.0,
    }
    return Point(**(values | other))


def records_in(
    folder: Path, *, parameters: Parameters = PARAMETERS, fresh: bool = False, today: str = "2026-11-21"
) -> Records[Parameters, Point]:
    """The records of an embedded sweep."""
    return Records(folder, "points", EmbeddedSweep, parameters=parameters, fresh=fresh, today=lambda: today)


async def swept(
    records: Records[Parameters, Point],
    senders: Iterable[int],
    made: Callable[[int], Point] = point,
) -> list[int]:
    """A sweep with made-up measurements. Returns the senders of the points that were measured now."""
    seen = []

    async def measure(task: Task) -> Point:
        seen.append(task.senders)
        return made(task.senders)

    await sweep(tasks_of(senders, 0, PARAMETERS), records, measure)
    return seen


def test_figures_that_follow_from_a_point() -> None:
    """The time for 340 million is this run's, and the rest at its steady rate."""
    one = point(1_000_000)
    assert one.steady_per_sender_per_s == pytest.approx(0.9)
    assert one.rate_per_s == pytest.approx(10_000_000 / 12)
    assert one.everyone_s == pytest.approx(12 + 330_000_000 / 900_000)
    assert point(1, steady_per_s=None).everyone_s is None


def test_bytes_are_of_sends_that_were_in_flight() -> None:
    """Under overload not every sender is busy; a claim beyond the slots is no send in flight."""
    assert point(1_000).bytes_per_send == pytest.approx(200)
    assert point(1_000, peak_in_flight=500).bytes_per_send == pytest.approx(400)
    assert point(1_000, peak_in_flight=1_100).bytes_per_send == pytest.approx(200)


def test_the_points_of_a_sweep() -> None:
    """1, 2, 5, 10 ...; the plain version beside ours, up to its limit."""
    assert ladder(100) == [1, 2, 5, 10, 20, 50, 100]
    assert ladder(3) == [1, 2]

    def order(plain_max: int) -> list[tuple[str, int]]:
        return [(task.version, task.senders) for task in tasks_of([1, 10], plain_max, PARAMETERS)]

    assert order(1) == [("smsim", 1), ("plain", 1), ("smsim", 10)]
    assert order(0) == [("smsim", 1), ("smsim", 10)]


def test_a_load_has_messages_for_its_batch_size() -> None:
    """As many as take some seconds."""
    assert [Load(1, size, LOAD_PARAMETERS).messages for size in (1, 10, 512)] == [60_000, 600_000, 1_000_000]


@pytest.mark.parametrize("run", [run_pipeline, run_tasks])
@pytest.mark.parametrize("failure_rate", [0.0, 1.0])
async def test_both_versions_send_every_message(run: Callable[[Task], Any], failure_rate: float) -> None:
    """2,000 messages through 200 senders: each is sent or failed, according to the failure rate."""
    parameters = Parameters(
        messages_per_sender=10, mean_s=0.01, stddev_s=0.001, failure_rate=failure_rate, seed=3
    )
    one: Point = await run(Task("smsim", 200, parameters))
    assert (one.messages, one.sent, one.failed) == (2_000, 2_000 * (1 - failure_rate), 2_000 * failure_rate)
    assert one.elapsed_s > 0
    assert one.p50_s is not None
    assert one.p50_s >= 0.009
    assert one.peak_in_flight >= 1


async def test_a_run_whose_samples_fail_is_no_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """A steady rate from half the samples would be wrong."""

    async def samples(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(embedded, "sample", samples)
    at_once = Parameters(messages_per_sender=1, mean_s=0.0, stddev_s=0.0, failure_rate=0.0)
    with pytest.raises(ZeroDivisionError):
        await run_pipeline(Task("smsim", 10, at_once))


async def test_a_sweep_is_continued(tmp_path: Path) -> None:
    """Recorded points are not measured again, unless a fresh start is asked for."""
    assert await swept(records_in(tmp_path), [1, 2]) == [1, 2]
    assert await swept(records_in(tmp_path), [1, 2, 5]) == [5]
    assert [one.senders for one in records_in(tmp_path).sweep.points] == [1, 2, 5]
    assert await swept(records_in(tmp_path, fresh=True), [1]) == [1]
    assert [one.senders for one in records_in(tmp_path).sweep.points] == [1]


async def test_a_point_that_does_not_add_up_ends_the_sweep(tmp_path: Path) -> None:
    """It is named and not recorded; the points before it are on disk."""

    def made(senders: int) -> Point:
        return point(senders, failed=senders - (senders == 2))

    with pytest.raises(StudyFailed, match=r"smsim, 2 senders: sent 18 \+ failed 1 is not 20"):
        await swept(records_in(tmp_path), [1, 2, 5], made)
    assert [one.senders for one in records_in(tmp_path).sweep.points] == [1]


def test_the_files_of_a_sweep(tmp_path: Path) -> None:
    """JSON that reads back as it was, and CSV that also has what follows from each point."""
    records, points = records_in(tmp_path), [point(1, steady_per_s=None), point(2, version="plain")]
    for one in points:
        records.add(one)
    assert read(tmp_path / "points.json", EmbeddedSweep).points == points
    with records.csv.open() as file:
        first = next(csv.DictReader(file))
    assert {"rate_per_s", "steady_per_sender_per_s", "bytes_per_send", "everyone_s"} <= first.keys()
    assert list(first)[:3] == ["version", "senders", "messages"]
    assert first["steady_per_s"] == ""


def test_points_under_other_conditions_are_refused(tmp_path: Path) -> None:
    """The line says what differs, and what to do."""
    records_in(tmp_path).add(point(1))
    other = Parameters(messages_per_sender=10, mean_s=2.0, stddev_s=0.1, failure_rate=0.1)
    with pytest.raises(UsageError, match=r"with mean_s 1.0, not 2.0: choose another --out, or .* --fresh"):
        records_in(tmp_path, parameters=other)
    assert records_in(tmp_path, parameters=other, fresh=True).sweep.points == []


def test_two_sweeps_share_a_folder(tmp_path: Path) -> None:
    """Each has files of its own."""
    records_in(tmp_path).add(point(1))
    loads = Records(tmp_path, "distributed", DistributedSweep, parameters=LOAD_PARAMETERS)
    loads.add(
        LoadPoint(
            processes=1,
            batch_size=100,
            messages=1_000,
            sent=900,
            failed=100,
            elapsed_s=2.0,
            steady_per_s=None,
            producer_cpu_s=0.1,
            senders_cpu_s=0.2,
            peak_sender_rss_bytes=80_000_000,
        )
    )
    assert len(records_in(tmp_path).sweep.points) == 1


async def test_a_sweep_of_several_days_says_so(tmp_path: Path) -> None:
    """It has the dates of its first and its latest point; measuring nothing more changes neither."""
    for date, senders in (("2026-11-21", [1]), ("2026-11-23", [1, 2]), ("2026-11-25", [1, 2])):
        await swept(records_in(tmp_path, today=date), senders)
    assert "Measured 2026-11-21 to 2026-11-23 on" in points_markdown(records_in(tmp_path).sweep)
    await swept(records_in(tmp_path, today="2026-11-25", fresh=True), [1])
    assert "Measured 2026-11-25 on" in points_markdown(records_in(tmp_path).sweep)


def test_the_table_has_both_versions_side_by_side(tmp_path: Path) -> None:
    """Rate, share of the ideal, CPU, memory and the time for 340 million."""
    records = records_in(tmp_path)
    records.add(point(1_000_000))
    records.add(point(1_000_000, version="plain", steady_per_s=30_000.0))
    found = points_markdown(records.sweep)
    row = (
        "| 1,000,000 | 900,000 | 90.0 % | 0.1 | 270 | 200 | 6.31 min | 30,000 | 3.0 % | 0.1 | 270 | 3.06 h |"
    )
    assert row in found
    assert "10 messages a sender; sends of 1 s ± 0.1 s, of which 10 % fail." in found


def test_the_same_points_draw_the_same_charts(tmp_path: Path) -> None:
    """Three charts as SVG and PNG, byte by byte."""
    points = [point(n, version=version) for n in (1, 100, 10_000) for version in ("smsim", "plain")]
    first = draw(points, tmp_path)
    once = [path.read_bytes() for path in first]
    assert [path.name for path in first] == [
        f"{name}.{suffix}" for name in ("throughput", "per-sender", "everyone") for suffix in ("png", "svg")
    ]
    assert once[0].startswith(b"\x89PNG")
    assert once[1].startswith(b"<?xml")
    assert [path.read_bytes() for path in draw(points, tmp_path)] == once


def test_points_without_an_ideal_or_a_steady_phase_can_be_drawn(tmp_path: Path) -> None:
    """No send time, one point, none of the plain version."""
    assert len(draw([point(5, steady_per_s=None, ideal_per_sender_per_s=None)], tmp_path)) == 6


def test_a_chart_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A folder stands in its place."""
    (tmp_path / "throughput.png").mkdir()
    with pytest.raises(NotWritten, match=r"throughput\.png: can't be written: Is a directory$"):
        draw([point(1)], tmp_path)


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        (["--senders", "0"], "'0' is not a whole number from 1"),
        (["--senders", "1,,2"], "'' is not a whole number from 1"),
        (["--senders", "1", "--max-senders", "5"], "not allowed with"),
        (["--mean-processing-time", "-1"], "'-1' is not a number"),
        (["--processes", "2"], "--processes goes with --distributed"),
        (["--distributed", "--plain-max", "1"], "--plain-max goes without --distributed"),
        (["--out", "taken"], "taken: File exists: choose another --out"),
    ],
)
def test_bad_usage_is_one_line(
    args: list[str],
    wrong: str,
    bare_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, and nothing measured."""
    (bare_environment / "taken").write_text("a file")
    code, error = smsim_scale(args, monkeypatch, capsys)
    assert code == 2
    assert wrong in error
    assert error.count("\n") == 1
    assert not (bare_environment / "scaling").exists()


@pytest.mark.parametrize(("name", "value"), [("PROVIDER_PROFILE", "slow"), ("KEEP_FAILED", "true")])
def test_settings_that_would_change_the_comparison_are_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A profile would be for ours only; kept messages would stand in a queue that must be empty."""
    monkeypatch.setenv(name, value)
    code, error = smsim_scale(["--senders", "1"], monkeypatch, capsys)
    assert (code, error) == (2, f"smsim scale: the study compares like with like: leave {name} out\n")


def test_without_the_optional_packages_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    code, error = smsim_scale(["--senders", "1"], monkeypatch, capsys)
    assert code == 2
    assert error == (
        'smsim scale: matplotlib and psutil not installed: pip install ".[study]", or make setup\n'
    )


def test_lines_are_printed_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """The progress bar is for terminals; the line of a point is for everyone."""
    with ProgressBar("points", 2) as progress:
        progress.update(0, "the first")
        progress.print("a line")
    assert capsys.readouterr().err == "a line\n"


def smsim_scale(
    args: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Runs `smsim scale`. Returns its exit code and stderr."""
    monkeypatch.setattr(sys, "argv", ["smsim", "scale", *args])
    try:
        code = cli.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, capsys.readouterr().err
