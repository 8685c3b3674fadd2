"""The steady rate, and the samples that it is read from."""

import asyncio

import pytest

from studies.timeline import Timeline, margin, sampling


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


async def test_samples_end_with_the_block_however_it_ends() -> None:
    """After a run that fails no task goes on sampling, and the run's error is raised."""
    with pytest.raises(ZeroDivisionError):
        async with sampling(asyncio.sleep(3_600)):
            raise ZeroDivisionError
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_failure_of_the_samples_is_not_lost() -> None:
    """It shows itself at the end of the block."""

    async def samples() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with sampling(samples()):
            await asyncio.sleep(0)
