"""What a tracker promises. One contract suite, tests/contract/test_tracking.py, holds every implementation to it.

The ledger alone says where a message stands. A tracker keeps what people want to see besides, for MESSAGE_TTL: number
and text, and for tracked messages (`Batch.track`) the time of each step, which it also tells to whoever listens.

- What `open` or `keep` returned from is kept. Opening or keeping the same again changes nothing.
- Steps are told in the background, so that they never hold up a send, and at most once: a process that dies, or a Redis
  that stays away for long, may swallow some. Who must know asks the ledger.
- A step of a message that was never opened, or has been forgotten since, is told, and kept nowhere.
"""

from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from common.messages import Lane, Message


class Status(StrEnum):
    """Where a message stands, in the words of the API; `State` in the ledger's bits."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    CANCELED = "canceled"


class Channel(StrEnum):
    """Redis Pub/Sub channels, one for each kind of step."""

    ACCEPTED = "SMS"  # accepted: queued for the first time
    SENDING = "SMS_SENDING"  # a send began, or will be tried again
    SENT = "SMS_OK"
    FAILED = "SMS_FAIL"  # failed or canceled


class _OfMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What concerns one message of a run.

    Attributes:
        run: The run.
        message: The message; the copies of this struct keep every field of it.
    """

    run: str
    message: Message

    @property
    def seq(self) -> int:
        """The message's sequence number."""
        return self.message.seq

    @property
    def number(self) -> str:
        """The number that the message goes to."""
        return self.message.to

    @property
    def text(self) -> str:
        """The text."""
        return self.message.text

    @property
    def uuid(self) -> str:
        """The message id, `<run>.<seq>`."""
        return f"{self.run}.{self.message.seq}"


class Record(_OfMessage, frozen=True, kw_only=True, gc=False):
    """A tracked message as it was accepted.

    Attributes:
        accepted_us: When it was accepted, as Unix time in microseconds.
        lane: The lane that it goes through.
        callback_url: Where to report its end, if anywhere.
    """

    accepted_us: int
    lane: Lane = Lane.BULK
    callback_url: str | None = None

    @property
    def accepted(self) -> "Step":
        """The message's first step."""
        return Step(
            run=self.run, message=self.message, status=Status.QUEUED, attempt=0, at_us=self.accepted_us
        )


class Step(_OfMessage, frozen=True, kw_only=True, gc=False):
    """A change of a tracked message's status.

    Attributes:
        status: The status from now on.
        attempt: The attempt, from 1; 0 for the acceptance. A QUEUED step with a higher attempt means that this attempt
            failed and another one follows.
        at_us: When it happened, as Unix time in microseconds.
        time_us: How long the send took, in microseconds, if one has ended.
    """

    status: Status
    attempt: int
    at_us: int
    time_us: int | None = None

    @property
    def is_acceptance(self) -> bool:
        """Whether it is the first step, which the record implies."""
        return self.attempt == 0 and self.status is Status.QUEUED

    @property
    def channel(self) -> Channel:
        """Where it is told."""
        match self.status:
            case Status.SENT:
                return Channel.SENT
            case Status.FAILED | Status.CANCELED:
                return Channel.FAILED
            case Status.QUEUED if self.is_acceptance:
                return Channel.ACCEPTED
            case _:
                return Channel.SENDING


class Track(msgspec.Struct, frozen=True, kw_only=True):
    """A record and its steps so far, oldest first."""

    record: Record
    steps: list[Step]


def track_of(record: Record, steps: Sequence[Step]) -> Track:
    """A record and the steps that were kept of it, in any order."""
    return Track(record=record, steps=sorted([record.accepted, *steps], key=lambda step: step.at_us))


class Tracker(Protocol):
    """Keeps records and texts, and tells steps."""

    async def open(self, records: Sequence[Record]) -> None:
        """Before tracked messages are published: keeps their records, for MESSAGE_TTL from now."""

    async def keep(self, run: str, messages: Sequence[Message]) -> None:
        """Before untracked messages of a run are published: keeps number and text of each, compactly."""

    def tell(self, steps: Sequence[Step]) -> None:
        """Keeps steps of opened messages and tells them to all listeners, soon; never waits.

        Told on Redis Pub/Sub as JSON: `run`, `uuid`, `status`, `attempt`, `at` (ISO 8601, UTC, microseconds), `number`,
        `text` and, of an ended send, `time_s`.
        """

    async def track(self, run: str, seq: int) -> Track | None:
        """The record and steps of a message; None where it was not opened, or is forgotten."""

    async def records(self, run: str, seqs: Sequence[int]) -> list[Record | None]:
        """The records of messages, in the order of `seqs`; None for those that were not opened, or are forgotten."""

    async def messages(self, run: str, seqs: Sequence[int]) -> list[Message | None]:
        """Number and text of messages, opened or kept, in the order of `seqs`; None for those not known."""

    def listen(self) -> AsyncIterator[list[Step]]:
        """All steps that anybody tells from now on, of every process, some at a time; begins when first awaited.

        Ends never: while Redis is away it waits, and what was told meanwhile is missed. A listener that takes too
        long misses steps too, rather than fill the memory; how many, it logs.
        """

    async def close(self) -> None:
        """Tells what waits to be told, as far as that goes within a second."""
