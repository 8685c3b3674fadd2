"""The messages of a batch, all at hand, as a source."""

from collections.abc import Iterator, Sequence
from itertools import islice

from common.messages import Lane, Message
from common.publishing.recipes import Recipe
from gateway.session import BATCHES


class Listed:
    """Messages with seqs from 0 on."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages
        self.count = len(messages)

    def recipe(self, batch_size: int, lane: Lane) -> Recipe:
        return Recipe(source=BATCHES, count=self.count, batch_size=batch_size, lane=lane)

    def messages(self, first: int) -> Iterator[Message]:
        return islice(self._messages, first, None)
