"""sender/providers/magic.py: messages to magic numbers have the documented outcome; others are unaffected."""

import phonenumbers
import pytest

from common.messages import Outcome
from sender.providers.magic import NUMBERS, Magic, MagicBehaviour, MagicNumbers
from sender.providers.profiles import Profile, Window
from sender.providers.simulated import SimulatedProvider
from tests.providers import Reports
from tests.waiting import eventually

OTHER = "+358401234567"
# What nobody would draw by chance: an ordinary message is known by it.
ORDINARY_TIME_US = 7_000


async def outcomes_of(numbers: list[str], attempt: int = 1) -> list[tuple[int, int, float]]:
    """The results of messages to these numbers, in their order."""
    profile = Profile(mean_s=ORDINARY_TIME_US / 1e6, stddev_s=0)
    provider = MagicNumbers(SimulatedProvider(profile, seed=1), MagicBehaviour(delay_s=0.2))
    reports = Reports(numbers, attempt)
    provider.start(reports.sends)
    await eventually(lambda: reports.complete)
    await provider.close()
    results = [reports.results[seq] for seq in range(len(numbers))]
    return [(r.outcome, reports.times_us[seq], r.retry_after_s) for seq, r in enumerate(results)]


@pytest.mark.parametrize("attempt", [1, 2, 3])
async def test_each_number_does_what_it_says(attempt: int) -> None:
    """At first and later attempts; the throttled one is sent in the end."""
    fails, never, throttled, delayed = await outcomes_of([magic.number() for magic in Magic], attempt)
    assert fails[0] == Outcome.FAILED
    assert never[0] == Outcome.RETRY
    assert never[2] == 0
    assert (throttled[0], throttled[2]) == ((Outcome.RETRY, 1.0) if attempt <= 2 else (Outcome.SENT, 0.0))
    assert (delayed[0], delayed[1]) == (Outcome.SENT, 200_000)


async def test_the_delay_is_ten_seconds_unless_asked_otherwise() -> None:
    """As documented."""
    assert MagicBehaviour().delay_s == 10


async def test_a_mixed_group_is_split() -> None:
    """Each message of a group has its own outcome and is reported once; ordinary ones play the profile."""
    numbers = [OTHER, Magic.FAILS.number(), OTHER, Magic.THROTTLED.number(), Magic.FAILS.number(415), OTHER]
    found = await outcomes_of(numbers)
    wanted = [Outcome.SENT, Outcome.FAILED, Outcome.SENT, Outcome.RETRY, Outcome.FAILED, Outcome.SENT]
    assert [outcome for outcome, _, _ in found] == wanted
    assert [time_us == ORDINARY_TIME_US for _, time_us, _ in found] == [number == OTHER for number in numbers]


async def test_without_a_magic_number_the_ordinary_provider_has_it_all() -> None:
    """Every message of such a group plays the profile."""
    assert [o[:2] for o in await outcomes_of([OTHER] * 5)] == [(Outcome.SENT, ORDINARY_TIME_US)] * 5


async def test_the_age_of_the_run_reaches_the_ordinary_provider() -> None:
    """A group with a magic number in it is in the same window of the profile as one without."""
    conditions = Profile(mean_s=0, windows=(Window(from_s=10, to_s=20, failed=1),))
    provider = MagicNumbers(SimulatedProvider(conditions, seed=1))
    reports = Reports([OTHER, Magic.THROTTLED.number()])
    reports.sends.age_s = 15
    provider.start(reports.sends)
    assert reports.results[0].outcome is Outcome.FAILED
    await provider.close()


@pytest.mark.parametrize("magic", Magic)
def test_the_numbers_are_valid_and_reserved(magic: Magic) -> None:
    """They are valid in hundreds of areas by the phonenumbers library, and all are 555-01xx."""
    numbers = [number for number, of in NUMBERS.items() if of is magic]
    parsed = [phonenumbers.parse(number) for number in numbers]
    assert sum(map(phonenumbers.is_valid_number, parsed)) > 400
    assert phonenumbers.is_valid_number(phonenumbers.parse(magic.number()))
    assert all(number[5:10] == "55501" and len(number) == 12 for number in numbers)
