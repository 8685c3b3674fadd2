"""Sources of messages, and the recipes from which a source can be made again to resume a run."""

from collections.abc import Iterator
from typing import Annotated, Protocol

import msgspec

from common.errors import UsageError
from common.messages import MAX_BATCH_MESSAGES, Lane, Message

# The sources of a gateway's runs: messages that were posted one by one, and messages that were posted together. Only a
# gateway can make their messages again.
SINGLES = "gateway"
BATCHES = "gateway-batch"


class Recipe(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is needed to make a run's messages again and to publish them in the same way. The ledger keeps it as JSON.

    Attributes:
        queue: The queue whose lanes the run goes through.
    """

    source: str
    count: int
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_BATCH_MESSAGES)]
    lane: Lane = Lane.BULK
    queue: str | None = None
    seed: int | None = None
    path: str | None = None
    sha256: str | None = None
    text: str | None = None


class Stream(Protocol):
    """A sequence of messages with seqs 0 to `count - 1`."""

    @property
    def count(self) -> int:
        """The number of messages."""

    def messages(self, first: int) -> Iterator[Message]:
        """The messages from seq `first` on; the same ones in every call."""


class Source(Stream, Protocol):
    """A stream that can be made again."""

    def recipe(self, batch_size: int, lane: Lane) -> Recipe:
        """How to make it again."""


def recipe_text(recipe: Recipe) -> str:
    """The recipe as the ledger keeps it."""
    return msgspec.json.encode(recipe).decode()


def recipe_of(text: str) -> Recipe:
    """The recipe in the text that the ledger kept. Raises UsageError if it is not a producer's."""
    try:
        return msgspec.json.decode(text, type=Recipe)
    except msgspec.MsgspecError:
        raise UsageError("this run was not begun by a producer, so it can't be resumed by one") from None
