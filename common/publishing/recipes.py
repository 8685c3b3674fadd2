"""Where messages come from. A source can be made again from its recipe, so a run that broke off can go on."""

from collections.abc import Iterator
from typing import Annotated, Protocol

import msgspec

from common.errors import UsageError
from common.messages import MAX_BATCH_MESSAGES, Lane, Message

# The sources of a gateway's runs: of messages that were posted one by one, and of a batch. Nobody makes their messages
# again but a gateway (gateway/acceptance/recovery.py).
SINGLES = "gateway"
BATCHES = "gateway-batch"


class Recipe(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is needed to make a run's messages again, and to publish them alike; kept by the ledger as JSON."""

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
        """How many messages it has."""

    def messages(self, first: int) -> Iterator[Message]:
        """The messages from seq `first` on, the same at every call."""


class Source(Stream, Protocol):
    """A stream that can be made again."""

    def recipe(self, batch_size: int, lane: Lane) -> Recipe:
        """How to make it again."""


def recipe_of(text: str) -> Recipe:
    """The recipe that the ledger kept. Raises UsageError if it is none of ours."""
    try:
        return msgspec.json.decode(text, type=Recipe)
    except msgspec.MsgspecError:
        raise UsageError("this run was not begun by a producer, so it can't be resumed by one") from None
