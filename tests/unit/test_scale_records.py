"""studies/scale/records.py: what is measured stays, and a study goes on with what is missing."""

import csv
import errno
import json
from pathlib import Path

import pytest

from common.errors import UsageError
from studies.scale import records as records_module
from studies.scale.load import LoadPoint
from studies.scale.point import Point, Task
from studies.scale.processes import StudyFailed
from studies.scale.records import NotWritten, Records, read_rows
from studies.scale.sweep import sweep, tasks_of
from tests.unit.scale_study import CONDITIONS, PARAMETERS, point, records_in

pytestmark = pytest.mark.usefixtures("bare_environment")


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


def dates_in(folder: Path) -> tuple[str, str]:
    """When the first point was measured, and when the last."""
    conditions = json.loads((folder / "conditions.json").read_text())["points"]
    return conditions["measured_at"], conditions["measured_until"]


async def test_points_keep_the_date_of_their_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study that goes on has a first and a last date; one that measures nothing more keeps both."""
    for date, senders, dates in (
        ("2026-11-21", [1], ("2026-11-21", "2026-11-21")),
        ("2026-11-23", [1, 2], ("2026-11-21", "2026-11-23")),
        ("2026-11-25", [1, 2], ("2026-11-21", "2026-11-23")),
    ):
        monkeypatch.setattr(records_module, "today", lambda date=date: date)
        await measured(tmp_path, senders)
        assert dates_in(tmp_path) == dates
    await measured(tmp_path, [1], fresh=True)
    assert dates_in(tmp_path) == ("2026-11-25", "2026-11-25")


async def test_a_full_disk_is_one_line_and_leaves_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what and where; the points before it stay, and no half of a file does."""
    records = records_in(tmp_path)
    records.add(point(1))

    def full(path: Path, text: str) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(NotWritten, match=f"^{tmp_path}: No space left on device$"):
        records.add(point(2))
    assert [row.senders for row in read_rows(records.csv, Point)] == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conditions.json", "points.csv"]
