"""Messages at hand as a source: those of a batch, or what is left of a run that broke off."""

from collections.abc import Iterator, Sequence
from itertools import islice

from common.messages import Lane, Message
from common.publishing.recipes import Recipe
from gateway.session import BATCHES


class Listed:
    """Messages with seqs from 0 on; `messages` may begin with a later one, where those before are done with."""

    def __init__(self, messages: Sequence[Message], count: int | None = None) -> None:
        self._messages = messages
        self.count = len(messages) if count is None else count

    def recipe(self, batch_size: int, lane: Lane) -> Recipe:
        return Recipe(source=BATCHES, count=self.count, batch_size=batch_size, lane=lane)

    def messages(self, first: int) -> Iterator[Message]:
        skip = first - self._messages[0].seq if self._messages else 0
        return islice(self._messages, skip, None)
