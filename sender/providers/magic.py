"""Magic numbers: what is sent to them comes out as the number says, whatever the profile (docs/stand-in.md).

They end in 01 and the last two digits of the HTTP status that says the same: 422, 503, 429, 408. After +1 and any area
code, 555-0100 to 555-0199 are set aside for fiction (North American Numbering Plan), so nobody has them.
"""

from enum import StrEnum

import numpy as np

from sender.providers.bulk import Sends
from sender.providers.profiles import Profile
from sender.providers.simulated import SimulatedProvider

DELAY_S = 10.0
THROTTLED_ATTEMPTS = 2
RETRY_AFTER_S = 1.0
# What a send takes that is not delayed.
QUICK_S = 0.05


class Magic(StrEnum):
    """What becomes of a message; the value is how its number ends."""

    FAILS = "5550122"  # fails for good
    NEVER_WORKS = "5550103"  # fails for now, at each attempt
    THROTTLED = "5550129"  # refused as too many THROTTLED_ATTEMPTS times, then sent
    DELAYED = "5550108"  # sent after DELAY_S

    def number(self, area: int = 202) -> str:
        """The number in an area, in E.164 form."""
        return f"+1{area}{self}"


NUMBERS = {magic.number(area): magic for magic in Magic for area in range(200, 1000)}


class MagicNumbers:
    """Looks after the messages to magic numbers, and leaves all others to the ordinary provider."""

    reads_messages = True

    def __init__(self, ordinary: SimulatedProvider, delay_s: float = DELAY_S) -> None:
        self._ordinary = ordinary
        self._sent = SimulatedProvider(Profile(mean_s=QUICK_S, stddev_s=0), 0)
        self._first = {
            Magic.FAILS: SimulatedProvider(Profile(mean_s=QUICK_S, stddev_s=0, failed=1), 0),
            Magic.NEVER_WORKS: SimulatedProvider(Profile(mean_s=QUICK_S, stddev_s=0, retry=1), 0),
            Magic.THROTTLED: SimulatedProvider(
                Profile(mean_s=QUICK_S, stddev_s=0, throttled=1, retry_after_s=RETRY_AFTER_S), 0
            ),
            Magic.DELAYED: SimulatedProvider(Profile(mean_s=delay_s, stddev_s=0), 0),
        }

    def start(self, sends: Sends) -> None:
        assert sends.messages is not None
        numbers = [message.to for message in sends.messages]
        sends.messages = None  # nobody reads them any more, and they would stay as long as the send takes
        if NUMBERS.keys().isdisjoint(numbers):
            self._ordinary.start(sends)
            return
        places: dict[SimulatedProvider, list[int]] = {}
        for place, number in enumerate(numbers):
            places.setdefault(self._provider_of(number, sends.attempt), []).append(place)
        for provider, at in places.items():
            provider.start(sends.part(np.array(at, np.intp)))

    async def close(self) -> None:
        for provider in (self._ordinary, self._sent, *self._first.values()):
            await provider.close()

    def _provider_of(self, number: str, attempt: int) -> SimulatedProvider:
        magic = NUMBERS.get(number)
        if magic is None:
            return self._ordinary
        if magic is Magic.THROTTLED and attempt > THROTTLED_ATTEMPTS:
            return self._sent
        return self._first[magic]
