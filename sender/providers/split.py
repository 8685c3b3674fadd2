"""Keeps simulated messages away from the provider that really sends."""

import asyncio

from sender.providers.bulk import BulkProvider, Sends


class SplitProvider:
    """Gives sends that are `simulated` to one provider, and all others to `real`.

    Attributes:
        reads_messages: Whether the real one needs the numbers and texts.
        real: The provider that really sends.
    """

    def __init__(self, real: BulkProvider, simulated: BulkProvider) -> None:
        self.real = real
        self.reads_messages = real.reads_messages
        self._simulated = simulated

    def start(self, sends: Sends) -> None:
        (self._simulated if sends.simulated else self.real).start(sends)

    async def close(self) -> None:
        await asyncio.gather(self.real.close(), self._simulated.close())
