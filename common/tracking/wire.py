"""Steps and records as JSON: in full as they are published, in brief as they are kept."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec

from common.messages import MAX_SEQ, Lane, Message
from common.tracking.port import Record, Status, Step

_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = _EPOCH.replace(tzinfo=UTC)
_US = timedelta(microseconds=1)
_LATEST_US = (datetime.max - _EPOCH) // _US
# Higher than in any step of ours, and low enough for every reader of JSON.
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class _Published(msgspec.Struct, omit_defaults=True):
    run: str
    uuid: str
    status: Status
    attempt: int
    at: str
    number: str
    text: str
    time_s: float | None = None


class _Received(msgspec.Struct):
    run: str
    uuid: str
    status: Status
    attempt: _Count
    at: datetime
    number: str
    text: str
    time_s: _Seconds | None = None


class _Brief(msgspec.Struct, array_like=True):
    status: Status
    attempt: int
    at_us: int
    time_us: int | None = None


class _Kept(msgspec.Struct, array_like=True):
    message: Message
    accepted_us: int
    lane: Lane
    callback_url: str | None = None


_encode = msgspec.json.Encoder().encode
_decode_published = msgspec.json.Decoder(_Received).decode
_decode_brief = msgspec.json.Decoder(_Brief).decode
_decode_record = msgspec.json.Decoder(_Kept).decode


def iso(at_us: int) -> str:
    """A Unix time in microseconds as ISO 8601 in UTC, always with six decimals."""
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat(timespec="microseconds") + "Z"


def encode_step(step: Step) -> bytes:
    """A step as it is published on its channel."""
    time_s = None if step.time_us is None else step.time_us / 1e6
    return _encode(
        _Published(
            run=step.run,
            uuid=step.uuid,
            status=step.status,
            attempt=step.attempt,
            at=iso(step.at_us),
            number=step.number,
            text=step.text,
            time_s=time_s,
        )
    )


def decode_step(data: bytes) -> Step:
    """The published step. Raises ValueError for anything else: any client of Redis can publish on the channel."""
    it = _decode_published(data)
    run, _, seq = it.uuid.rpartition(".")
    if run != it.run or f"{int(seq)}" != seq or not 0 <= int(seq) < MAX_SEQ:
        raise ValueError("not a uuid of this run")
    if it.at.tzinfo is None:
        raise ValueError("a time without a zone")
    at_us = (it.at - _EPOCH_UTC) // _US
    if not 0 <= at_us <= _LATEST_US:
        raise ValueError("a time that has no date in UTC, or is before Unix's")
    return Step(
        run=run,
        message=Message(seq=int(seq), to=it.number, text=it.text),
        status=it.status,
        attempt=it.attempt,
        at_us=at_us,
        time_us=None if it.time_s is None else round(it.time_s * 1e6),
    )


def encode_brief(step: Step) -> bytes:
    """A step as it is kept beside its record, which has the rest."""
    return _encode(_Brief(step.status, step.attempt, step.at_us, step.time_us))


def decode_brief(data: bytes, run: str, message: Message) -> Step:
    """The step that was kept."""
    it = _decode_brief(data)
    return Step(
        run=run, message=message, status=it.status, attempt=it.attempt, at_us=it.at_us, time_us=it.time_us
    )


def encode_record(record: Record) -> bytes:
    """A record as it is kept under its message's id, which has the run and the seq."""
    return _encode([record.message, record.accepted_us, record.lane, record.callback_url])


def decode_record(data: bytes, run: str, seq: int) -> Record:
    """The record that was kept."""
    it = _decode_record(data)
    return Record(
        run=run,
        message=msgspec.structs.replace(it.message, seq=seq),
        accepted_us=it.accepted_us,
        lane=it.lane,
        callback_url=it.callback_url,
    )
