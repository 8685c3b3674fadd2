"""What the sender may expect of any provider, in the bulk form; the same suite for all of them.

The profiles are played a hundred times faster.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest

from common.messages import Outcome
from examples.provider.smsim_acme import AcmeProvider, AcmeSettings
from sender.providers.bulk import BulkProvider
from sender.providers.http import HttpProvider
from sender.providers.magic import Magic, MagicBehaviour, MagicNumbers
from sender.providers.port import OutgoingMessage, Result
from sender.providers.profiles import Profile, builtin_profiles, load_profile
from sender.providers.simulated import SimulatedProvider
from sender.providers.single import BulkAdapter
from tests.providers import NUMBER, Reports, StubService, stub_service
from tests.waiting import eventually

FASTER = 100
BROKEN = NUMBER[:-1] + StubService.DROPPED
BY_LAST_DIGIT = [NUMBER[:-1] + last for last in ("0", StubService.REFUSED, StubService.THROTTLED, "5")]


@dataclass(frozen=True)
class Bench:
    """A provider under test.

    Attributes:
        make: Makes one, ready to send.
        numbers: Numbers whose sends end, in as many ways as the provider knows.
        broken: A number whose send goes wrong, if the provider has such a case.
    """

    make: Callable[[], BulkProvider]
    numbers: list[str]
    broken: str = NUMBER


def quick(name: str) -> Profile:
    """A built-in profile whose sends take a hundredth of their time."""
    profile = load_profile(name)
    stddev_s = None if profile.stddev_s is None else profile.stddev_s / FASTER
    return msgspec.structs.replace(profile, mean_s=profile.mean_s / FASTER, stddev_s=stddev_s)


class Raising:
    """Sends nothing, and raises for one number."""

    async def send(self, message: OutgoingMessage) -> Result:
        await asyncio.sleep(0.001)
        if message.to == BROKEN:
            raise RuntimeError("a bug of the provider")
        return Result(Outcome.SENT)

    async def close(self) -> None:
        """Has nothing to close."""


@asynccontextmanager
async def simulated_bench(profile: str) -> AsyncIterator[Bench]:
    yield Bench(lambda: SimulatedProvider(quick(profile), seed=1), [NUMBER])


@asynccontextmanager
async def magic_bench() -> AsyncIterator[Bench]:
    numbers = [NUMBER, *(magic.number() for magic in Magic)]
    yield Bench(
        lambda: MagicNumbers(SimulatedProvider(quick("flaky"), seed=1), MagicBehaviour(delay_s=0.1)), numbers
    )


@asynccontextmanager
async def http_bench() -> AsyncIterator[Bench]:
    async with stub_service() as service:
        yield Bench(lambda: BulkAdapter(HttpProvider(service.url, 60)), BY_LAST_DIGIT, BROKEN)


@asynccontextmanager
async def example_bench() -> AsyncIterator[Bench]:
    async with stub_service() as service:
        settings = AcmeSettings.model_validate({"url": service.url, "token": "a-token"})
        yield Bench(lambda: BulkAdapter(AcmeProvider(settings, 60)), BY_LAST_DIGIT, BROKEN)


@asynccontextmanager
async def raising_bench() -> AsyncIterator[Bench]:
    yield Bench(lambda: BulkAdapter(Raising()), [NUMBER], BROKEN)


BENCHES: dict[str, Callable[[], AbstractAsyncContextManager[Bench]]] = {
    **{f"simulated-{name}": lambda name=name: simulated_bench(name) for name in builtin_profiles()},  # type: ignore[misc]
    "magic": magic_bench,
    "http": http_bench,
    "example": example_bench,
    "raising": raising_bench,
}


@pytest.fixture(params=BENCHES)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with BENCHES[request.param]() as bench:
        yield bench


@contextlib.asynccontextmanager
async def opened(bench: Bench) -> AsyncIterator[BulkProvider]:
    provider = bench.make()
    try:
        yield provider
    finally:
        await provider.close()


def numbers(bench: Bench, count: int) -> list[str]:
    """So many numbers, all kinds in turn."""
    return [bench.numbers[k % len(bench.numbers)] for k in range(count)]


async def test_each_send_is_reported_once(bench: Bench) -> None:
    """In groups of any size, at any attempt, each with the owner of its message (`Reports` holds it to that)."""
    groups = [Reports(numbers(bench, n), attempt=n % 3 + 1, first_seq=1_000 * n) for n in (1, 2, 7, 300)]
    async with opened(bench) as provider:
        for reports in groups:
            provider.start(reports.sends)
        await eventually(lambda: all(reports.complete for reports in groups))


async def test_results_are_valid(bench: Bench) -> None:
    """A wait only before another attempt, up to 512 s; never ambiguous if sent; times in microseconds."""
    reports = Reports(numbers(bench, 200))
    async with opened(bench) as provider:
        provider.start(reports.sends)
        await eventually(lambda: reports.complete)
    for result in reports.results.values():
        assert result.outcome in Outcome
        assert 0 <= result.retry_after_s <= 512
        assert result.retry_after_s == 0 or result.outcome is Outcome.RETRY
        assert not (result.ambiguous and result.outcome is Outcome.SENT)
    assert min(reports.times_us.values()) >= 0
    assert max(reports.times_us.values()) > 0


async def test_many_are_in_flight_at_once(bench: Bench) -> None:
    """All that it is given, without waiting for one another: the sender's slots are the limit."""
    reports = Reports(numbers(bench, 400))
    async with opened(bench) as provider:
        provider.start(reports.sends)
        await eventually(lambda: reports.complete)


async def test_a_send_that_goes_wrong_disturbs_no_other(bench: Bench) -> None:
    """It ends like any other, and the rest are sent, failed or retried as if it were not there."""
    ordinary = numbers(bench, 60)
    alone, together = Reports(ordinary), Reports([*ordinary, *[bench.broken] * 5])
    async with opened(bench) as provider:
        provider.start(alone.sends)
        provider.start(together.sends)
        await eventually(lambda: alone.complete and together.complete)
    assert {seq: result for seq, result in together.results.items() if seq < 60} == alone.results
    if bench.broken != NUMBER:
        broken = [result for seq, result in together.results.items() if seq >= 60]
        assert broken == [Result(Outcome.RETRY, ambiguous=True)] * 5


async def test_nothing_is_reported_after_close(bench: Bench) -> None:
    """Sends in flight are abandoned, and later ones are not begun; another provider goes on."""
    abandoned, later, other = (Reports(numbers(bench, 50)) for _ in range(3))
    async with opened(bench) as neighbour:
        provider = bench.make()
        provider.start(abandoned.sends)
        await asyncio.sleep(0)  # so that each has begun
        await provider.close()
        reported = len(abandoned.results)
        provider.start(later.sends)
        neighbour.start(other.sends)
        await eventually(lambda: other.complete)
    assert reported < 50
    assert (len(abandoned.results), len(later.results)) == (reported, 0)


async def test_close_with_nothing_in_flight(bench: Bench) -> None:
    """Before the first send, and after the last; closing twice is safe."""
    unused = bench.make()
    await unused.close()
    await unused.close()
    reports = Reports(numbers(bench, 5))
    async with opened(bench) as provider:
        provider.start(reports.sends)
        await eventually(lambda: reports.complete)
