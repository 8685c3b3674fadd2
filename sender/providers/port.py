"""What the sender asks of a provider."""

from typing import Protocol

from sender.work import Sends


class Provider(Protocol):
    """Sends messages, many at once. `reads_messages`: it needs numbers and texts, in `sends.messages`."""

    reads_messages: bool

    def start(self, sends: Sends) -> None:
        """Begins all sends now and returns at once; reports them through `sends.finish` as they end.

        An outcome is SENT, FAILED (for good), or RETRY (a later attempt may do better; the sender decides whether
        there is one).
        """

    async def close(self) -> None:
        """Gives up what is in flight; nothing is reported after this."""
