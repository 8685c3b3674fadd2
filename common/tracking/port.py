"""What a tracker promises. The contract suite, tests/contract/test_tracking.py, runs against every implementation.

Only the ledger knows the state of a message. A tracker keeps, for MESSAGE_TTL, what people want to see besides: numbers
and texts, and for tracked messages (`Batch.track`) the time of each step. It also publishes the steps to listeners.

- Records and texts are kept by the store of accepted messages (gateway/acceptance), in the write that accepts them.
- Steps are published in the background, so that they never delay a send, and at most once: some are lost when a process
  dies, or when Redis is away for long. Ask the ledger for what must be certain.
- A step of a message that has no record, or none any more, is published and not kept.
"""

from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from common.messages import Lane, Message


class Status(StrEnum):
    """The status of a message in the API. The ledger's `State` has the same ones."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    CANCELED = "canceled"


class Channel(StrEnum):
    """The Redis Pub/Sub channels. SENDING has the sends that begin and those that will be tried again."""

    ACCEPTED = "SMS"
    SENDING = "SMS_SENDING"
    SENT = "SMS_OK"
    FAILED = "SMS_FAIL"  # failed or canceled


class _OfMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What concerns one message of a run.

    Attributes:
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
    """A tracked message as it was accepted."""

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
        """The channel on which it is published."""
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
    """A record and its steps, oldest first."""

    record: Record
    steps: list[Step]


def track_of(record: Record, steps: Sequence[Step]) -> Track:
    """The track of a record and its kept steps, which may be in any order."""
    return Track(record=record, steps=sorted([record.accepted, *steps], key=lambda step: step.at_us))


class Tracker(Protocol):
    """Reads records and texts, keeps steps, and publishes them."""

    def publish(self, steps: Sequence[Step]) -> None:
        """Keeps steps of messages that have a record, and publishes them to all listeners, soon; never waits.

        On Redis Pub/Sub a step is JSON: `run`, `uuid`, `status`, `attempt`, `at` (ISO 8601, UTC, microseconds),
        `number`, `text` and, once a send has ended, `time_s`.
        """

    async def track(self, run: str, seq: int) -> Track | None:
        """The record and the steps of a message; None if it is not tracked, or forgotten."""

    async def records(self, run: str, seqs: Sequence[int]) -> list[Record | None]:
        """The records of messages, in the order of `seqs`; None for those that are not tracked, or forgotten."""

    async def messages(self, run: str, seqs: Sequence[int]) -> list[Message | None]:
        """Messages with number and text, in the order of `seqs`; None for those that are not kept, or forgotten."""

    def listen(self) -> AsyncIterator[list[Step]]:
        """The steps that any process publishes from the first `anext` on, some at a time.

        It does not end. While Redis is away it waits, and misses what is published meanwhile. A slow listener misses
        steps too, so that memory is bounded; the number is logged.
        """

    async def close(self) -> None:
        """Publishes the buffered steps, as far as possible within a moment."""
