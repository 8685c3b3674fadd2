"""The JSON of the REST API: what requests may say and what answers say."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from common.messages import MAX_TEXT_CHARS, RUN_PATTERN, Lane, Message
from common.sms.numbers import LONGEST_CHARS
from common.sms.segments import Segments
from common.sms.texts import TEXT_PATTERN
from common.tracking.port import Status
from gateway.acceptance.port import IdempotencyKey, Item
from gateway.callbacks.address import MAX_URL_LENGTH

MAX_BATCH_ITEMS = 100_000
MAX_TRACKED_ITEMS = 1_000

UuidText = Annotated[
    str, Meta(description="`<run>.<seq>`, the message id", examples=["20261121-072613-24a5b446cc10.0"])
]
RunName = Annotated[
    str,
    Meta(
        pattern=RUN_PATTERN,
        examples=["20261121-072613-24a5b446cc10"],
        extra={"words": "1 to 40 small letters, digits and hyphens"},
    ),
]
Time = Annotated[
    str, Meta(description="UTC, ISO 8601, to the microsecond", examples=["2026-11-21T07:26:13.123456Z"])
]
NumberIn = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST_CHARS,
        description="a phone number in international form, with + and country code",
        examples=["+541166587382"],
    ),
]
NumberText = Annotated[str, Meta(description="in E.164 form", examples=["+541166587382"])]
Text = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_TEXT_CHARS,
        description="not blank, and without control characters, but for tabs and line ends",
        examples=["hello"],
        extra_json_schema={"pattern": TEXT_PATTERN},
    ),
]
CallbackUrl = Annotated[
    str,
    Meta(
        max_length=MAX_URL_LENGTH,
        description="gets a signed POST once the message is sent, failed or canceled",
    ),
]


class Priority(StrEnum):
    """Which lane a message takes: an urgent one never queues behind normal ones."""

    NORMAL = "normal"
    URGENT = "urgent"

    @property
    def lane(self) -> Lane:
        """The lane of this priority."""
        return Lane.URGENT if self is Priority.URGENT else Lane.BULK

    @classmethod
    def of(cls, lane: Lane) -> "Priority":
        """The priority that takes this lane."""
        return cls.URGENT if lane is Lane.URGENT else cls.NORMAL


class SmsIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message to be sent."""

    number: NumberIn
    text: Text
    priority: Priority = Priority.NORMAL
    callback_url: CallbackUrl | None = None

    def strings(self) -> int:
        """How many strings its JSON has at least, names among them."""
        return 4 + 2 * (self.priority is not Priority.NORMAL) + 2 * (self.callback_url is not None)

    def item(self, key: IdempotencyKey | None = None) -> Item:
        """The message to be accepted."""
        return Item(number=self.number, text=self.text, callback_url=self.callback_url, key=key)


class BatchItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One message of a batch."""

    number: NumberIn
    text: Text
    callback_url: CallbackUrl | None = None

    def strings(self) -> int:
        """How many strings its JSON has at least, names among them."""
        return 4 + 2 * (self.callback_url is not None)

    def message(self, seq: int, number: str, text: str) -> Message:
        """The message as it will be published, with its number and text in normal form."""
        return Message(seq=seq, to=number, text=text)


class Accepted(msgspec.Struct, frozen=True):
    """A message that was accepted."""

    uuid: UuidText
    number: NumberText
    text: str
    status: Status
    segments: Segments


class BatchAccepted(msgspec.Struct, frozen=True):
    """A batch that was accepted, as a run of its own. `ids[k]` is the message id of the k-th message."""

    run: RunName
    count: int
    segments: Annotated[int, Meta(description="SMS segments of all messages together")]
    ids: list[UuidText]


class StepView(msgspec.Struct, frozen=True):
    """Something that happened to a message."""

    status: Status
    attempt: Annotated[int, Meta(description="0 for the acceptance, else from 1")]
    at: Time
    time_s: Annotated[float | None, Meta(description="how long the send took, once it has ended")] = None


class MessageView(msgspec.Struct, frozen=True):
    """What is known of a message. Of bulk messages the ledger keeps the status only, and no times."""

    uuid: UuidText
    run: str
    number: NumberText | None
    text: str | None
    status: Status
    attempts: int | None
    priority: Priority | None
    accepted_at: Time | None
    sending_at: Time | None
    settled_at: Time | None
    steps: list[StepView]
