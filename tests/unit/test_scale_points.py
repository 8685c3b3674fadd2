"""studies/scale/: points, what follows from them, and how both versions measure one. In processes: tests/e2e."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from studies.scale import embedded
from studies.scale.embedded import run_pipeline
from studies.scale.load import Load, LoadParameters
from studies.scale.point import Parameters, Point, Task
from studies.scale.sweep import ladder, tasks_of
from studies.scale.tasks import run_tasks
from tests.unit.scale_study import PARAMETERS, point

pytestmark = pytest.mark.usefixtures("bare_environment")


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


async def test_a_run_whose_samples_fail_is_no_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """A steady rate read off half the samples would be a wrong one."""

    async def samples(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(embedded, "sample", samples)
    with pytest.raises(ZeroDivisionError):
        await run_pipeline(Task("smsim", 10, Parameters(1, mean_s=0.0, stddev_s=0.0, failure_rate=0.0)))
