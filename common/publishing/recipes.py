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
        owner: The id of the API key that posted the messages; None: they came from no key.
        simulated: Whether only the simulated provider may send the messages.
        rate_per_s: How many messages a second are published; as fast as possible unless given.
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
    number_column: str | None = None
    delimiter: str | None = None
    country: str | None = None
    reserved_numbers: bool = True
    once: bool = False
    owner: str | None = None
    simulated: bool = False
    rate_per_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


class Origin(msgspec.Struct, frozen=True):
    """The part of a recipe that every run may have.

    Attributes:
        owner: As in a `Recipe`.
        simulated: As in a `Recipe`.
    """

    owner: str | None = None
    simulated: bool = False


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


def origin_in(recipe: str | bytes) -> Origin:
    """The origin in the recipe of any run, not of a producer's alone; that of nobody if it has none."""
    try:
        return msgspec.json.decode(recipe, type=Origin)
    except msgspec.MsgspecError:
        return Origin()


def recipe_of(text: str) -> Recipe:
    """The recipe in the text that the ledger kept. Raises UsageError if it is not a producer's."""
    try:
        return msgspec.json.decode(text, type=Recipe)
    except msgspec.MsgspecError:
        raise UsageError("this run was not begun by a producer, so it can't be resumed by one") from None
