"""simulation/scale/: what the study makes of its measurements, and how it goes on. The measuring itself: tests/e2e."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.errors import UsageError
from simulation import cli
from simulation.scale import figures, table
from simulation.scale.embedded import run_pipeline
from simulation.scale.load import Load, LoadParameters, LoadPoint
from simulation.scale.point import Parameters, Point, Task
from simulation.scale.processes import Child, StudyFailed
from simulation.scale.records import Records, read_rows
from simulation.scale.sweep import ladder, sweep, tasks_of
from simulation.scale.tasks import run_tasks
from simulation.scale.timeline import Timeline, margin

pytestmark = pytest.mark.usefixtures("bare_environment", "process_as_before")

PARAMETERS = Parameters(messages_per_sender=10, mean_s=1.0, stddev_s=0.1, failure_rate=0.1)
CONDITIONS: dict[str, Any] = {
    "measured_at": "2026-11-21",
    "machine": {"cores": 2, "memory_gb": 16.0, "cpu": "a CPU", "system": "an OS"},
    "versions": {"python": "3.11.7"},
    "parameters": msgspec.to_builtins(PARAMETERS),
}


def point(senders: int, **other: Any) -> Point:
    """A point at nine tenths of its ideal, of so many senders."""
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


# The steady rate


def test_ramp_and_tail_do_not_count() -> None:
    """1,000 messages a second, after a ramp and before a tail that are slow: the steady rate is 1,000."""
    timeline = Timeline()
    for at_s, settled in ((5, 1_500), (6, 2_500), (8, 4_500), (12, 8_500), (20, 10_000)):
        timeline.note(at_s, settled)
    assert timeline.steady_per_s(10_000, margin=0.15) == pytest.approx(1_000)
    assert timeline.steady_per_s(10_000, margin=0.01) == pytest.approx(
        9_800 / (20 - 8 * 100 / 1_500 - 5 / 15)
    )


def test_between_two_samples_settles_are_evenly_spread() -> None:
    """The margins lie between samples."""
    timeline = Timeline()
    timeline.note(10, 1_000)
    assert timeline.steady_per_s(1_000) == pytest.approx(100)


@pytest.mark.parametrize("messages_per_sender", [4, 5, 10, 20, 37])
def test_waves_are_counted_whole(messages_per_sender: int) -> None:
    """Senders that all take 1 s a send settle in waves; each does 1 message/s, and the steady rate says just that."""
    timeline, senders = Timeline(), 100
    for wave in range(1, messages_per_sender + 1):
        timeline.note(wave - 0.1, (wave - 1) * senders)
        timeline.note(wave + 0.1, wave * senders)
    rate = timeline.steady_per_s(messages_per_sender * senders, margin(messages_per_sender))
    assert rate == pytest.approx(senders)


def test_the_margin_is_15_percent_of_ten_messages() -> None:
    """The default study leaves out 15 % at either end."""
    assert margin(10) == pytest.approx(0.15)


@pytest.mark.parametrize("samples", [[], [(1.0, 50)], [(0.1, 100)]])
def test_without_a_steady_phase_there_is_no_rate(samples: list[tuple[float, int]]) -> None:
    """Nothing was settled, or too little, or all within a moment."""
    timeline = Timeline()
    for sample in samples:
        timeline.note(*sample)
    assert timeline.steady_per_s(100) is None


def test_too_few_messages_have_no_steady_phase() -> None:
    """One message, or less than four of each sender."""
    timeline = Timeline()
    timeline.note(10, 3)
    assert timeline.steady_per_s(1) is None
    assert timeline.steady_per_s(3, margin(3)) is None


# Points


def test_what_follows_from_a_point() -> None:
    """340 million: this run, and the rest at its steady rate."""
    one = point(1_000_000)
    assert one.steady_per_sender_per_s == pytest.approx(0.9)
    assert one.rate_per_s == pytest.approx(10_000_000 / 12)
    assert one.bytes_per_send == pytest.approx(200)
    assert one.everyone_s == pytest.approx(12 + 330_000_000 / 900_000)
    assert point(1, steady_per_s=None).everyone_s is None


def test_bytes_are_of_sends_that_were_in_flight() -> None:
    """Under overload not every sender is busy; what was claimed beyond the slots is no send in flight."""
    assert point(1_000, peak_in_flight=500).bytes_per_send == pytest.approx(400)
    assert point(1_000, peak_in_flight=1_100).bytes_per_send == pytest.approx(200)


def test_the_ladder_is_spaced_alike() -> None:
    """1, 2, 5, 10 ... and its end."""
    assert ladder(100) == [1, 2, 5, 10, 20, 50, 100]
    assert ladder(3) == [1, 2]
    assert ladder(2_000_000)[-3:] == [500_000, 1_000_000, 2_000_000]


def test_the_plain_version_stands_beside_ours_up_to_its_limit() -> None:
    """Interleaved, and left out where asked for."""

    def order(plain_max: int) -> list[tuple[str, int]]:
        return [(task.version, task.senders) for task in tasks_of([1, 10], plain_max, PARAMETERS)]

    assert order(1) == [("smsim", 1), ("plain", 1), ("smsim", 10)]
    assert order(0) == [("smsim", 1), ("smsim", 10)]


def test_a_load_has_as_many_messages_as_fit_its_batches() -> None:
    """Unless somebody said how many."""
    parameters = LoadParameters(None, 100, 0.0, 0.0, 0.1, None, "quorum")
    assert [Load(1, size, parameters).messages for size in (1, 10, 512)] == [60_000, 600_000, 1_000_000]
    assert Load(1, 1, msgspec.structs.replace(parameters, num_messages=7)).messages == 7


@pytest.mark.parametrize("run", [run_pipeline, run_tasks])
@pytest.mark.parametrize("failure_rate", [0.0, 1.0])
async def test_both_versions_send_every_message(run: Callable[[Task], Any], failure_rate: float) -> None:
    """2,000 messages through 200 senders: each is sent or failed, as the failure rate says."""
    parameters = Parameters(10, mean_s=0.01, stddev_s=0.001, failure_rate=failure_rate, seed=3)
    one: Point = await run(Task("smsim", 200, parameters))
    assert (one.messages, one.sent, one.failed) == (2_000, 2_000 * (1 - failure_rate), 2_000 * failure_rate)
    assert one.adds_up
    assert one.elapsed_s > 0
    assert one.p50_s is not None
    assert one.p50_s >= 0.009
    assert one.peak_in_flight >= 1


# The records, and going on


def records_in(folder: Path, fresh: bool = False, **parameters: Any) -> Records[Point]:
    now = {**CONDITIONS, "parameters": CONDITIONS["parameters"] | parameters}
    return Records(folder, "points", Point, now, fresh)


async def measured(folder: Path, senders: list[int], fresh: bool = False) -> list[int]:
    """A sweep with made-up measurements; gives the senders of the points that were measured now."""
    seen = []

    async def measure(task: Task) -> Point:
        seen.append(task.senders)
        return point(task.senders)

    await sweep(tasks_of(senders, 0, PARAMETERS), records_in(folder, fresh), measure)
    return seen


async def test_a_sweep_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    """What is in the file is not measured again, unless a fresh start is asked for."""
    assert await measured(tmp_path, [1, 2]) == [1, 2]
    assert await measured(tmp_path, [1, 2, 5]) == [5]
    assert [row.senders for row in records_in(tmp_path).rows] == [1, 2, 5]
    assert await measured(tmp_path, [1], fresh=True) == [1]
    assert [row.senders for row in records_in(tmp_path).rows] == [1]


async def test_a_sweep_that_breaks_off_leaves_what_is_measured(tmp_path: Path) -> None:
    """Each point is on disk before the next begins."""

    async def measure(task: Task) -> Point:
        if task.senders == 5:
            raise StudyFailed("no more")
        return point(task.senders)

    with pytest.raises(StudyFailed):
        await sweep(tasks_of([1, 2, 5, 10], 0, PARAMETERS), records_in(tmp_path), measure)
    assert [row.senders for row in records_in(tmp_path).rows] == [1, 2]


async def test_a_point_that_does_not_add_up_fails_the_sweep(tmp_path: Path) -> None:
    """It is told by its name, and not recorded."""

    async def measure(task: Task) -> Point:
        return point(task.senders, failed=task.senders - (task.senders == 2))

    with pytest.raises(StudyFailed, match=r"smsim, 2 senders: sent 18 \+ failed 1 is not 20"):
        await sweep(tasks_of([1, 2, 5], 0, PARAMETERS), records_in(tmp_path), measure)
    assert [row.senders for row in records_in(tmp_path).rows] == [1]


def test_a_row_comes_back_as_it_was(tmp_path: Path) -> None:
    """Numbers, and what is not known."""
    rows = [point(1, steady_per_s=None), point(2_000_000, version="plain")]
    records = records_in(tmp_path)
    for row in rows:
        records.add(row)
    assert read_rows(records.csv, Point) == rows
    with records.csv.open() as file:
        columns = next(csv.DictReader(file))
    assert {"rate_per_s", "steady_per_sender_per_s", "bytes_per_send", "everyone_s"} <= columns.keys()


def test_other_parameters_are_refused(tmp_path: Path) -> None:
    """Points that were measured otherwise are not mixed; the line says what differs. Afresh it goes."""
    records_in(tmp_path).add(point(1))
    with pytest.raises(UsageError, match=r"with mean_s 1.0, not 2.0: choose another --out, or .* --fresh"):
        records_in(tmp_path, mean_s=2.0)
    assert records_in(tmp_path, fresh=True, mean_s=2.0).rows == []


def test_a_table_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    """Without conditions, or with other columns."""
    (tmp_path / "points.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"does not say how points\.csv was measured"):
        records_in(tmp_path)
    with pytest.raises(UsageError, match="no table of a study"):
        read_rows(tmp_path / "points.csv", Point)


async def test_two_studies_share_a_folder(tmp_path: Path) -> None:
    """Each keeps its own conditions."""
    records_in(tmp_path).add(point(1))
    loads = Records(tmp_path, "distributed", LoadPoint, {**CONDITIONS, "parameters": {"slots": 1}}, False)
    loads.add(LoadPoint(1, 100, 1_000, 900, 100, 2.0, None, 0.1, 0.2, 80_000_000))
    assert len(records_in(tmp_path).rows) == 1


async def test_a_process_that_fails_says_why() -> None:
    """Its last line, and how it ended."""
    with pytest.raises(StudyFailed, match=r"^it: ended by exit code 3: the reason$"):
        async with Child(
            "it", [sys.executable, "-c", "import sys; print('the reason', file=sys.stderr); exit(3)"]
        ) as child:
            await child.result()
    with pytest.raises(StudyFailed, match=r"SIGKILL \(out of memory\?\)"):
        async with Child("it", [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) as child:
            await child.result()


# Figures and table


def test_the_same_points_draw_the_same_figures(tmp_path: Path) -> None:
    """Three figures as SVG and PNG, byte by byte."""
    points = [point(n, version=version) for n in (1, 100, 10_000) for version in ("smsim", "plain")]
    first = figures.draw(points, tmp_path)
    once = [path.read_bytes() for path in first]
    assert [path.name for path in first] == [
        f"{name}.{suffix}" for name in ("throughput", "per-sender", "everyone") for suffix in ("svg", "png")
    ]
    assert once[0].startswith(b"<?xml")
    assert once[1].startswith(b"\x89PNG")
    assert [path.read_bytes() for path in figures.draw(points, tmp_path)] == once


def test_points_without_an_ideal_or_a_steady_phase_can_be_drawn(tmp_path: Path) -> None:
    """No send time, one point, none of the plain version."""
    assert len(figures.draw([point(5, steady_per_s=None, ideal_per_sender_per_s=None)], tmp_path)) == 6


def test_the_table_is_written_into_its_page(tmp_path: Path) -> None:
    """Between its markers, again and again; the rest of the page stays."""
    records = records_in(tmp_path)
    records.add(point(1_000_000))
    records.add(point(1_000_000, version="plain", steady_per_s=30_000.0))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: points.csv -->\nold\n<!-- end of table -->\nafter\n")
    for _ in range(2):
        assert table.main([str(records.csv), "--write", str(page)]) == 0
    text = page.read_text()
    assert (
        "| 1,000,000 | 900,000 | 90.0 % | 0.1 | 270 | 200 | 6.31 min | 30,000 | 3.0 % | 0.1 | 270 | 3.06 h |"
        in text
    )
    assert text.startswith("before\n<!--")
    assert text.endswith("<!-- end of table -->\nafter\n")
    assert "old" not in text
    assert text.count("sends of 1 s ± 0.1 s, of which 10 % fail") == 1


def test_a_page_without_the_markers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and a line that names them."""
    records = records_in(tmp_path)
    records.add(point(1))
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    assert table.main([str(records.csv), "--write", str(page)]) == 2
    assert "<!-- table: points.csv -->" in capsys.readouterr().err
    assert page.read_text() == "nothing\n"


# Bad usage


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        (["--senders", "0"], "'0' is not a whole number from 1"),
        (["--senders", "1,,2"], "'' is not a whole number from 1"),
        (["--senders", "1", "--max-senders", "5"], "not allowed with"),
        (["--messages-per-sender", "0"], "'0' is not"),
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
    """Exit code 2, one clear line, nothing measured."""
    (bare_environment / "taken").write_text("a file")
    code, error = smsim_scale(args, monkeypatch, capsys)
    assert code == 2
    assert wrong in error
    assert error.count("\n") == 1
    assert not (bare_environment / "scaling").exists()


def test_settings_that_would_change_the_comparison_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A profile for ours and none for the plain version would compare nothing."""
    monkeypatch.setenv("PROVIDER_PROFILE", "slow")
    code, error = smsim_scale(["--senders", "1"], monkeypatch, capsys)
    assert (code, error) == (
        2,
        "smsim scale: the study compares like with like: leave PROVIDER_PROFILE out\n",
    )


def test_without_the_optional_packages_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    code, error = smsim_scale(["--senders", "1"], monkeypatch, capsys)
    assert code == 2
    assert "matplotlib" in error
    assert "sms-simulator[study]" in error
    assert error.count("\n") == 1


def smsim_scale(
    args: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Runs `smsim scale`; gives its exit code and stderr."""
    monkeypatch.setattr(sys, "argv", ["smsim", "scale", *args])
    try:
        code = cli.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, capsys.readouterr().err
