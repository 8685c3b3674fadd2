"""A store of accepted messages, and its promises. The contract suite is tests/contract/test_acceptances.py.

The outbox of a run holds the messages that are accepted and not yet confirmed by the broker: seqs `relayed` to
`accepted - 1`.

- `accept` and `accept_run` are one durable write: a message that they answer for has its seq, record, idempotency key
  and callback, and counts as published. A call that is repeated after a lost answer gives the same answer.
- A message in an outbox does not expire. MESSAGE_TTL begins with `confirm`.
- A run is relayed by the holder of its lease. A lease ends by the store's clock, and another gateway may take it over
  then. Each holder has a higher fencing token: calls with a lower one change nothing and raise LeaseLost.
- The messages and bytes of all outboxes together stay within `Bounds`.
- What the broker has is kept for show only: its records, texts, keys and callbacks. When they take more than
  `Bounds.kept_bytes`, the oldest are removed. Nothing of an outbox ever is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import msgspec

from common.errors import SmsimError
from common.messages import Lane, Message
from common.tracking.port import Record

KEY_KEPT_S = 86_400.0


class LeaseLost(SmsimError):
    """Another gateway has taken the run over, or it was closed or lost: accept into another run."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may be in all outboxes together, and how much is kept for show.

    Attributes:
        messages: The most messages in outboxes.
        bytes: The most bytes of their records, texts, keys and callbacks.
        kept_bytes: The most bytes of the records, texts, keys and callbacks that are kept for show.
    """

    messages: int = 1_000_000
    bytes: int = 2**62
    kept_bytes: int = 2**62


class Kept(msgspec.Struct, frozen=True, gc=False):
    """How much is kept for show, and how full the store is. A bound is 0 if there is none.

    Attributes:
        bytes: The bytes that are kept for show.
        most_bytes: The most bytes.
        used_bytes: The memory that the store has in use for everything.
        memory_bytes: The memory that it may use.
    """

    bytes: int = 0
    most_bytes: int = 0
    used_bytes: int = 0
    memory_bytes: int = 0


class Owner(msgspec.Struct, frozen=True, gc=False):
    """Whose messages a run has. Messages of different owners never share a run.

    Attributes:
        id: The id of the API key that they came with; None: they came with none.
        simulated: Whether only the simulated provider may send them.
    """

    id: str | None = None
    simulated: bool = False


NOBODY = Owner()


class IdempotencyKey(msgspec.Struct, frozen=True, gc=False):
    """The Idempotency-Key of a request.

    Attributes:
        caller: The id of the API key that it came with.
        digest: A digest of the key.
        fingerprint: A digest of the request.
    """

    caller: str
    digest: str
    fingerprint: str


class Item(msgspec.Struct, frozen=True, gc=False):
    """A message to be accepted.

    Attributes:
        number: In E.164 form.
        text: The text.
        callback_url: Where to POST how the message ended.
        key: The request's Idempotency-Key.
    """

    number: str
    text: str
    callback_url: str | None = None
    key: IdempotencyKey | None = None

    def message(self, seq: int) -> Message:
        """The message as it will be published."""
        return Message(seq=seq, to=self.number, text=self.text)

    def record(self, run: str, seq: int, *, accepted_us: int, lane: Lane) -> Record:
        """The record of the message."""
        return Record(
            run=run,
            message=self.message(seq),
            accepted_us=accepted_us,
            lane=lane,
            callback_url=self.callback_url,
        )


class Lease(msgspec.Struct, frozen=True, gc=False):
    """The right to accept into a run and to relay it.

    Attributes:
        run: The run's id.
        fence: The fencing token.
    """

    run: str
    fence: int


class Outbox(msgspec.Struct, frozen=True, kw_only=True):
    """A run to be relayed.

    Attributes:
        lease: The caller's lease.
        lane: The lane of its messages.
        track: Whether their steps are published as events.
        simulated: Whether only the simulated provider may send them.
        relayed: Seqs below it are confirmed by the broker.
        accepted: Seqs below it are accepted.
    """

    lease: Lease
    lane: Lane
    track: bool
    simulated: bool = False
    relayed: int = 0
    accepted: int = 0


class Verdict(StrEnum):
    """Why an item was not accepted as a new message."""

    REPLAYED = "replayed"  # its key is bound to a message that was accepted before
    CONFLICT = "conflict"  # its key came with another request before
    FULL = "full"  # the outboxes are full
    TOO_LARGE = "too large"  # a run that is larger than all outboxes may be together


class Exceptional(msgspec.Struct, frozen=True, gc=False):
    """An item of a group that was not accepted as a new message.

    Attributes:
        verdict: Why not.
        id: The message id that its key is bound to, if REPLAYED; of a whole run, the run's.
    """

    verdict: Verdict
    id: str = ""


class Group(msgspec.Struct, frozen=True, gc=False):
    """Messages that are accepted together.

    Attributes:
        number: Counts the calls of `accept` under this lease, from 1. A repeated call has the same number.
        items: The messages.
        accepted_us: When they came, Unix time in microseconds.
        relayed: As for `confirm`: the broker has the seqs below it.
    """

    number: int
    items: Sequence[Item]
    accepted_us: int
    relayed: int = 0


class GroupAnswer(msgspec.Struct, frozen=True, gc=False):
    """The answer to a group.

    Attributes:
        first: The seq of the first message that was accepted; the others follow in the order of the items.
        exceptions: Items that were not accepted as new messages, by position.
    """

    first: int
    exceptions: dict[int, Exceptional] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class NewRun:
    """Messages to be accepted as a run of their own.

    Attributes:
        run: The run's id; no other run has it.
        messages: The messages, with seqs from 0.
        lane: The lane of all of them.
        track: Whether their steps are published as events. Callbacks need it.
        accepted_us: When they came, Unix time in microseconds.
        callback_urls: Where to POST how messages ended, by seq.
        key: The request's Idempotency-Key.
        owner: Whose messages they are.
    """

    run: str
    messages: Sequence[Message]
    lane: Lane
    track: bool
    accepted_us: int
    callback_urls: Mapping[int, str] = field(default_factory=dict)
    key: IdempotencyKey | None = None
    owner: Owner = NOBODY

    def record(self, message: Message) -> Record:
        """The record of one of its messages."""
        return Record(
            run=self.run,
            message=message,
            accepted_us=self.accepted_us,
            lane=self.lane,
            callback_url=self.callback_urls.get(message.seq),
        )


class Acceptances(Protocol):
    """Accepted messages. `holder` names the gateway that calls."""

    async def open(self, run: str, lane: Lane, owner: Owner = NOBODY) -> Outbox:
        """Opens a run for messages of an owner that come one by one. Their steps are tracked."""

    async def accept(self, outbox: Outbox, group: Group) -> GroupAnswer:
        """Accepts a group into an open run, all of it in one write; renews the lease. Raises LeaseLost.

        Calls for one run come one after the other.
        """

    async def accept_run(self, batch: NewRun) -> Outbox | Exceptional:
        """Accepts a run, all of it in one write; nothing of it counts before. Raises Unavailable."""

    async def confirm(self, lease: Lease, relayed: int, close: bool = False) -> int:
        """The broker has all seqs below `relayed`; renews the lease. Less than before only renews it.

        Gives how far the run is accepted. `close`: no more will be accepted into it. A run that is closed and relayed
        leaves the outbox. Raises LeaseLost.
        """

    async def release(self, lease: Lease) -> None:
        """Gives the lease up: another gateway may take the run over at once."""

    async def take_over(self, silent_s: float) -> Outbox | None:
        """Takes a run whose lease ended `silent_s` ago or earlier, and closes it; None if there is none."""

    async def read(self, outbox: Outbox, first: int, count: int) -> list[Message | None]:
        """Messages of an outbox from seq `first` on; None for one whose text is lost."""

    async def backlog(self) -> tuple[int, int]:
        """How many messages and bytes are in all outboxes."""

    async def trim(self) -> Kept:
        """Removes what is kept for show beyond its bound, oldest first; accepting and confirming do some of it.

        When the store is nearly full for another reason, what is kept for show gives way.
        """
