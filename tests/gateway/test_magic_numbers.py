"""sender/providers/magic.py: what is sent to a magic number comes out as promised; other numbers don't notice."""

import numpy as np
import phonenumbers
import pytest

from common.messages import Message, Outcome
from sender.providers.bulk import Sends
from sender.providers.magic import NUMBERS, Magic, MagicBehaviour, MagicNumbers
from sender.providers.profiles import Profile, Window
from sender.providers.simulated import SimulatedProvider
from tests.waiting import eventually

OTHER = "+358401234567"
# What nobody would draw by chance: an ordinary message is known by it.
ORDINARY_TIME_US = 7_000


class Ended:
    """What came of each seq: (outcome, time in µs, wait asked for in s)."""

    def __init__(self) -> None:
        self.by_seq: dict[int, tuple[int, int, float]] = {}

    def __call__(self, sends: Sends, first: int, beyond: int) -> None:
        for k in range(first, beyond):
            assert int(sends.seqs[k]) not in self.by_seq, "reported twice"
            assert int(sends.owners[k]) == int(sends.seqs[k]) % 3, "another message's owner"
            wait_s = 0.0 if sends.retry_after_s is None else float(sends.retry_after_s[k])
            self.by_seq[int(sends.seqs[k])] = int(sends.outcomes[k]), int(sends.times_us[k]), wait_s


def sends_to(numbers: list[str], ended: Ended, attempt: int = 1) -> Sends:
    seqs = np.arange(len(numbers), dtype=np.int64)
    messages = [Message(seq, number, "hello") for seq, number in enumerate(numbers)]
    return Sends("a-run", attempt, seqs, (seqs % 3).astype(np.int32), [], ended, messages=messages)


async def outcomes_of(numbers: list[str], attempt: int = 1) -> list[tuple[int, int, float]]:
    """What comes of messages to these numbers, in their order."""
    profile = Profile(mean_s=ORDINARY_TIME_US / 1e6, stddev_s=0)
    provider, ended = MagicNumbers(SimulatedProvider(profile, seed=1), MagicBehaviour(delay_s=0.2)), Ended()
    provider.start(sends_to(numbers, ended, attempt))
    await eventually(lambda: len(ended.by_seq) == len(numbers))
    await provider.close()
    return [ended.by_seq[seq] for seq in range(len(numbers))]


@pytest.mark.parametrize("attempt", [1, 2, 3])
async def test_each_number_does_what_it_says(attempt: int) -> None:
    """At first and later attempts, and the throttled one is sent in the end."""
    fails, never, throttled, delayed = await outcomes_of([magic.number() for magic in Magic], attempt)
    assert fails[0] == Outcome.FAILED
    assert never[0] == Outcome.RETRY
    assert never[2] == 0
    assert (throttled[0], throttled[2]) == ((Outcome.RETRY, 1.0) if attempt <= 2 else (Outcome.SENT, 0.0))
    assert (delayed[0], delayed[1]) == (Outcome.SENT, 200_000)


async def test_the_delay_is_ten_seconds_unless_asked_otherwise() -> None:
    """What the documentation says."""
    assert MagicBehaviour().delay_s == 10


async def test_a_mixed_group_is_told_apart() -> None:
    """Each message of a group has its own outcome, is reported once, and the ordinary ones are the profile's."""
    numbers = [OTHER, Magic.FAILS.number(), OTHER, Magic.THROTTLED.number(), Magic.FAILS.number(415), OTHER]
    found = await outcomes_of(numbers)
    wanted = [Outcome.SENT, Outcome.FAILED, Outcome.SENT, Outcome.RETRY, Outcome.FAILED, Outcome.SENT]
    assert [outcome for outcome, _, _ in found] == wanted
    assert [time_us == ORDINARY_TIME_US for _, time_us, _ in found] == [number == OTHER for number in numbers]


async def test_without_a_magic_number_the_ordinary_provider_has_it_all() -> None:
    """Every message of such a group is the profile's."""
    assert [o[:2] for o in await outcomes_of([OTHER] * 5)] == [(Outcome.SENT, ORDINARY_TIME_US)] * 5


async def test_the_age_of_the_run_reaches_the_ordinary_provider() -> None:
    """A group with a magic number in it is in the same window of the profile as one without."""
    conditions = Profile(mean_s=0, windows=(Window(from_s=10, to_s=20, failed=1),))
    provider, ended = MagicNumbers(SimulatedProvider(conditions, seed=1)), Ended()
    sends = sends_to([OTHER, Magic.THROTTLED.number()], ended)
    sends.age_s = 15
    provider.start(sends)
    assert ended.by_seq[0][0] == Outcome.FAILED
    await provider.close()


@pytest.mark.parametrize("magic", Magic)
def test_the_numbers_are_valid_and_nobody_s(magic: Magic) -> None:
    """The phonenumbers library takes them for valid in hundreds of areas, and all are 555-01xx."""
    numbers = [number for number, of in NUMBERS.items() if of is magic]
    parsed = [phonenumbers.parse(number) for number in numbers]
    assert sum(map(phonenumbers.is_valid_number, parsed)) > 400
    assert phonenumbers.is_valid_number(phonenumbers.parse(magic.number()))
    assert all(number[5:10] == "55501" and len(number) == 12 for number in numbers)
