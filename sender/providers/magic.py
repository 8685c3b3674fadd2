"""Magic numbers: a message to one of them has the outcome that its number stands for (docs/stand-in.md).

They end in 01 and the last two digits of the HTTP status with the same meaning: 422, 503, 429, 408. After +1 and any
area code, 555-0100 to 555-0199 are reserved for fiction (North American Numbering Plan), so they belong to nobody.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from msgspec.structs import replace

from sender.providers.bulk import BulkProvider, Sends
from sender.providers.profiles import Profile
from sender.providers.simulated import SimulatedProvider


class Magic(StrEnum):
    """The end of a magic number, by the outcome of its messages."""

    FAILS = "5550122"  # fails finally
    NEVER_WORKS = "5550103"  # fails temporarily, at each attempt
    THROTTLED = "5550129"  # is refused as too many at the first attempts, then sent
    DELAYED = "5550108"  # is sent after a delay

    def number(self, area: int = 202) -> str:
        """The number in an area, in E.164 form."""
        return f"+1{area}{self}"


NUMBERS = {magic.number(area): magic for magic in Magic for area in range(200, 1000)}


@dataclass(frozen=True)
class MagicBehaviour:
    """How sends to magic numbers behave.

    Attributes:
        delay_s: Time of a delayed send, in seconds.
        quick_s: Time of any other send, in seconds.
        throttled_attempts: The number of attempts that are throttled.
        retry_after_s: The wait that a throttled send asks for, in seconds.
    """

    delay_s: float = 10.0
    quick_s: float = 0.05
    throttled_attempts: int = 2
    retry_after_s: float = 1.0

    def profiles(self) -> dict[Magic, Profile]:
        """The profile of the first attempt at each kind of number."""
        quick = Profile(mean_s=self.quick_s, stddev_s=0)
        return {
            Magic.FAILS: replace(quick, failed=1),
            Magic.NEVER_WORKS: replace(quick, retry=1),
            Magic.THROTTLED: replace(quick, throttled=1, retry_after_s=self.retry_after_s),
            Magic.DELAYED: replace(quick, mean_s=self.delay_s),
        }


class MagicNumbers:
    """Sends messages to magic numbers as these say, and leaves all others to the ordinary provider."""

    reads_messages = True

    def __init__(self, ordinary: BulkProvider, behaviour: MagicBehaviour | None = None) -> None:
        behaviour = behaviour or MagicBehaviour()
        self._ordinary = ordinary
        self._throttled_attempts = behaviour.throttled_attempts
        self._sent = SimulatedProvider(Profile(mean_s=behaviour.quick_s, stddev_s=0), seed=0)
        self._magic = {}
        for magic, profile in behaviour.profiles().items():
            self._magic[magic] = SimulatedProvider(profile, seed=0)

    def start(self, sends: Sends) -> None:
        assert sends.messages is not None
        numbers = [message.to for message in sends.messages]
        sends.messages = None  # frees the texts: the simulated providers need none
        if NUMBERS.keys().isdisjoint(numbers):
            self._ordinary.start(sends)
            return
        positions: dict[BulkProvider, list[int]] = {}
        for position, number in enumerate(numbers):
            provider = self._provider_for(number, sends.attempt)
            positions.setdefault(provider, []).append(position)
        for provider, at in positions.items():
            provider.start(sends.part(np.array(at, np.intp)))

    async def close(self) -> None:
        for provider in (self._ordinary, self._sent, *self._magic.values()):
            await provider.close()

    def _provider_for(self, number: str, attempt: int) -> BulkProvider:
        magic = NUMBERS.get(number)
        if magic is None:
            return self._ordinary
        if magic is Magic.THROTTLED and attempt > self._throttled_attempts:
            return self._sent
        return self._magic[magic]
