"""Message and Batch, their limits, and their wire form (docs/wire-format.md)."""

import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from common import strict_json
from common.errors import BadBody

MAX_BATCH_MESSAGES = 10_000
MAX_BODY_BYTES = 1024 * 1024
MAX_TEXT_CHARS = 1_600
MAX_SEQ = 2**40
# The seqs of a batch span less than this, so that a body can make the ledger open two pieces at most.
MAX_BATCH_SPAN = 1 << 17

# A message takes at most this many bytes of a body: each character may take six, escaped.
LARGEST_MESSAGE_BYTES = 6 * MAX_TEXT_CHARS + 256

BATCH_TYPE = "sms.batch.v1"
RUN_PATTERN = r"^[a-z0-9-]{1,40}\Z"
E164_PATTERN = r"\+[1-9][0-9]{6,14}"

_RUN = re.compile(RUN_PATTERN)
_E164 = re.compile(E164_PATTERN)
_E164_LINES = re.compile(rf"(?:{E164_PATTERN}\n)*")

Seqs = NDArray[np.int64]


class Lane(StrEnum):
    """The two queues of batches. An urgent message never queues behind bulk ones."""

    BULK = "bulk"
    URGENT = "urgent"


class State(IntEnum):
    """The state of a message: two bits in the ledger."""

    QUEUED = 0
    SENDING = 1
    SENT = 2
    FAILED = 3


class Outcome(IntEnum):
    """The outcome of a send; the value is the next state of the message."""

    RETRY = State.QUEUED
    SENT = State.SENT
    FAILED = State.FAILED


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One SMS. `seq` counts from 0 within its run; `to` is a number in E.164 form."""

    seq: Annotated[int, msgspec.Meta(ge=0, lt=MAX_SEQ)]
    to: str
    text: Annotated[str, msgspec.Meta(max_length=MAX_TEXT_CHARS)]


class Batch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The content of one AMQP message: 1 to 10,000 messages of one run, all in the same attempt.

    Attributes:
        track: Whether the steps of the messages are tracked.
        again: A copy of a redelivered batch: another sender may have claimed some of the messages.
        simulated: Only the simulated provider may send them, whatever PROVIDER is.
    """

    run: Annotated[str, msgspec.Meta(pattern=RUN_PATTERN)]
    attempt: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    track: bool = False
    again: bool | msgspec.UnsetType = msgspec.UNSET
    simulated: bool | msgspec.UnsetType = msgspec.UNSET
    messages: Annotated[list[Message], msgspec.Meta(min_length=1, max_length=MAX_BATCH_MESSAGES)]

    @property
    def message_id(self) -> str:
        """The id of the AMQP message, `<run>.<first seq>`."""
        return f"{self.run}.{self.messages[0].seq}"

    @property
    def is_simulated(self) -> bool:
        """Whether only the simulated provider may send them."""
        return self.simulated is True

    def seqs(self) -> Seqs:
        """The seqs of the messages, in their order."""
        return np.array([m.seq for m in self.messages], np.int64)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Batch)
# How `encode_batch` begins a body. It has no name twice, so that such bodies need no second look.
_OURS = re.compile(
    rb'\{"run":"[a-z0-9-]+","attempt":\d+,"track":(?:true|false),(?:"again":\w+,)?'
    rb'(?:"simulated":\w+,)?"messages":\[\['
)
_UNREADABLE = "a field that is not known holds a number that is too large, or is nested too deep"
_OPTIONAL = frozenset(Batch.__struct_fields__) - {"run", "messages"}


def encode_batch(batch: Batch) -> bytes:
    """The body of a batch, as JSON."""
    return _encoder.encode(batch)


def decode_batch(body: bytes) -> tuple[Batch, Seqs]:
    """The batch in a body, and its seqs. Raises BadBody if the body can't be decoded or exceeds a limit."""
    if len(body) > MAX_BODY_BYTES:
        raise BadBody(f"{len(body)} bytes, over the limit of {MAX_BODY_BYTES}")
    reason = None
    try:
        batch = _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        reason = _reason(error)
    if reason is not None:
        batch = _decoded_again(body, reason)
    elif not (_OURS.match(body) and body.endswith(b'"]]}')):
        _members(body, otherwise=_UNREADABLE)
    seqs = batch.seqs()
    if seqs.size > 1:
        _check_seqs(seqs)
    return batch, seqs


def _decoded_again(body: bytes, reason: str) -> Batch:
    """A batch in which optional fields that are not given are null, as some languages write them. Raises BadBody."""
    members = _members(body, otherwise=reason)
    if strict_json.holds_half_a_pair(members):
        raise BadBody(
            "a text holds half of a surrogate pair: it was cut within a character, such as an emoji"
        )
    if not isinstance(members, dict) or all(members.get(name, "") is not None for name in _OPTIONAL):
        raise BadBody(reason)
    given = {name: value for name, value in members.items() if value is not None or name not in _OPTIONAL}
    try:
        return msgspec.convert(given, Batch)
    except msgspec.ValidationError as error:
        raise BadBody(_reason(error)) from None


def _members(body: bytes, otherwise: str) -> Any:
    """The JSON in a body. Raises BadBody for a name that is twice, else with the reason `otherwise`."""
    try:
        return strict_json.read(body)
    except strict_json.NameTwice as twice:
        raise BadBody(str(twice)) from None
    except (ValueError, RecursionError):
        raise BadBody(otherwise) from None


def _check_seqs(seqs: Seqs) -> None:
    ordered = seqs if is_increasing(seqs) else np.sort(seqs)
    if int(ordered[-1]) - int(ordered[0]) >= MAX_BATCH_SPAN:
        raise BadBody(f"the seqs span {MAX_BATCH_SPAN} or more")
    if ordered is not seqs and not is_increasing(ordered):
        raise BadBody("a seq is twice in the batch")


def fitting(batch: Batch, most_bytes: int = MAX_BODY_BYTES) -> Iterator[Batch]:
    """The batch, in parts whose bodies are within the limit; a single message is a part even if it is over it."""
    sure_to_fit = max(1, most_bytes // LARGEST_MESSAGE_BYTES)
    if len(batch.messages) <= sure_to_fit or len(encode_batch(batch)) <= most_bytes:
        yield batch
        return
    half = len(batch.messages) // 2
    for part in (batch.messages[:half], batch.messages[half:]):
        yield from fitting(msgspec.structs.replace(batch, messages=part), most_bytes)


def is_increasing(seqs: Seqs) -> bool:
    """Whether each seq is greater than the one before, so that none is there twice."""
    return bool((seqs[1:] > seqs[:-1]).all())


def _reason(error: Exception) -> str:
    """The reason without content of the body. UnicodeError quotes the body; the errors of msgspec do not."""
    if isinstance(error, UnicodeError) or "UTF-8" in str(error):  # msgspec 0.22; msgspec 0.23
        return "not UTF-8"
    return str(error)[:200] or type(error).__name__


def is_e164(number: str) -> bool:
    """Whether a number has E.164 form: `+`, then 7 to 15 digits, the first no 0 (ITU-T E.164)."""
    return _E164.fullmatch(number) is not None


def bad_numbers(messages: list[Message]) -> list[int]:
    """The positions of the messages whose number is not E.164.

    One pattern over the joined numbers costs a third of one match a number; the slow way runs only if it fails.
    """
    joined = "\n".join([m.to for m in messages]) + "\n"
    if _E164_LINES.fullmatch(joined) and joined.count("\n") == len(messages):
        return []
    return [i for i, m in enumerate(messages) if not is_e164(m.to)]


def is_run_id(run: str) -> bool:
    """Whether a text can be the name of a run: `[a-z0-9-]{1,40}`."""
    return _RUN.match(run) is not None


def new_run_id(random_bytes: int = 2) -> str:
    """A new run id, `YYYYMMDD-HHMMSS-xxxx` (UTC and random hex digits).

    Two random bytes are enough for a command; a service that begins many runs a second needs six.
    """
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(random_bytes)}"
