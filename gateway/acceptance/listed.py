"""The messages of a batch, all at hand, as a stream."""

from collections.abc import Iterator, Sequence
from itertools import islice

from common.messages import Message


class Listed:
    """Messages with seqs from 0 on."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages
        self.count = len(messages)

    def messages(self, first: int) -> Iterator[Message]:
        """Those from seq `first` on."""
        return islice(self._messages, first, None)
