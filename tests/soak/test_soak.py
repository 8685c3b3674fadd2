"""The conclusions that the soak draws from its samples, and a soak of a few seconds."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.servers import RabbitServer, RedisServer
from tests.soak.__main__ import report, table
from tests.soak.samples import MB, Sample, Trend, trend
from tests.soak.soak import Load, open_soak


def samples_of(rss_mb_per_hour: float, fds: list[int]) -> list[Sample]:
    """A process that begins with 100 MB, sampled once a minute."""
    return [
        Sample(60.0 * k, int((100 + rss_mb_per_hour * k / 60) * MB), count) for k, count in enumerate(fds)
    ]


def trend_of(samples: list[Sample]) -> Trend:
    found = trend(samples)
    assert found is not None
    return found


def test_the_slope_is_that_of_the_samples_after_the_warm_up() -> None:
    """A process that grows by 60 MB an hour has that slope, whatever its warm-up was like."""
    samples = samples_of(60, [10] * 40)
    samples[:10] = [replace(sample, rss=0) for sample in samples[:10]]

    assert trend_of(samples).rss_mb_per_hour == pytest.approx(60, abs=0.01)
    assert trend_of(samples_of(0, [10] * 40)).rss_mb_per_hour == pytest.approx(0, abs=0.01)


def test_descriptors_that_are_never_given_back_are_told_from_those_that_come_and_go() -> None:
    """One more each minute is a leak. Up and down is not, nor is a pool that has grown by two."""
    assert trend_of(samples_of(0, list(range(60)))).fds_grow
    assert not trend_of(samples_of(0, [10, 30] * 30)).fds_grow
    assert not trend_of(samples_of(0, [10] * 40 + [12] * 20)).fds_grow


def test_too_few_samples_have_no_trend() -> None:
    """Two samples give no trend."""
    assert trend(samples_of(0, [10, 10])) is None


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_short_soak_is_exact(
    tmp_path: Path, rabbit_server: RabbitServer, redis_server: RedisServer
) -> None:
    """Through a dozen seconds with senders stopped and killed, the totals are exact and each process is sampled."""
    load = Load(seconds=12, rate=500, restart_every_s=1, wave_every_s=2, sample_every_s=0.5, posts=50)
    async with open_soak(load, 3, tmp_path, rabbit_server, redis_server) as soak:
        await soak.run()

    results = report(soak)
    assert results["troubles"] == []
    assert (
        results["totals"]["published"] == results["published"] == 1000 * results["runs"] + results["accepted"]
    )
    assert results["runs"] > 0
    assert results["accepted"] > 0
    assert results["killed"] + results["stopped"] > 0
    assert {"sender", "monitor", "gateway", "redis", "rabbitmq"} <= results["processes"].keys()
    assert "| monitor |" in table(results)
