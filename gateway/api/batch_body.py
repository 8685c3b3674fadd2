"""The body of POST /sms/batch: an array, or lines that are read as they come; each message is looked at, and named
where something is wrong with it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import msgspec
from starlette.requests import Request

from common.messages import Message
from common.sms.numbers import NumberRules, normalise, number_error
from common.sms.segments import segments
from common.sms.texts import normal_text, text_error
from common.strict_json import has_names_once
from common.web.bodies import (
    LARGE_BYTES,
    NDJSON,
    SMALL_BYTES,
    Take,
    decoded_or_errors,
    media_type,
    not_json,
    pieces,
)
from common.web.operations import JSON
from common.web.problems import FieldError, Problem
from common.web.validation import MOST_ERRORS, Check, failed_checks, invalid
from gateway.api.array_items import items_of
from gateway.api.schemas import MAX_BATCH_ITEMS, MAX_TRACKED_ITEMS, BatchItem

# Between two looks at the event loop, so that single messages are served meanwhile.
SLICE = 500
NOTHING_ACCEPTED = "nothing was accepted"
# A body that is not there by then is given up.
READ_WITHIN_S = 30.0

T = TypeVar("T")

_items = msgspec.json.Decoder(list[BatchItem])
_item = msgspec.json.Decoder(BatchItem)
# Makes nothing of it: only whether it is JSON.
_unlooked_at = msgspec.json.Decoder(msgspec.Raw)
# An item that was read, or what is wrong with it; and what stands for the latter among the messages.
_Read = BatchItem | list[FieldError]
_NONE = Message(0, "", "")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the messages of a batch may be.

    Attributes:
        url_error: Checks a callback URL; gives the error, if there is one.
        numbers: How numbers are read.
        turn: Taken by one batch for each turn of the event loop.
    """

    url_error: Callable[[str], str | None]
    numbers: NumberRules
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def wait_for_turn(self) -> None:
        """Waits until this batch may go on: in each turn of the event loop one does, so that others are not kept."""
        async with self.turn:
            await asyncio.sleep(0)

    def checks(self) -> dict[str, Check]:
        """The checks of an item's fields."""
        number = partial(number_error, rules=self.numbers)
        return {"number": number, "text": text_error, "callback_url": self.url_error}


@dataclass(frozen=True, slots=True)
class BatchBody:
    """A body with nothing wrong: messages with numbers in E.164 form, how many segments they take, and the callback
    URLs of those that have one, by seq.
    """

    messages: list[Message]
    segments: int
    callback_urls: dict[int, str]


async def read_batch(request: Request, rules: Rules, take: Take) -> BatchBody:
    """What a request says. Problem 400, 408, 413, 415, 422 or 429, and then none of it is accepted.

    `take` is asked for each piece of the body.
    """
    checks = rules.checks()
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            items = await _read(request, take, checks)
    except TimeoutError:
        what = f"the body did not come within {READ_WITHIN_S:g} s: send it faster, or less at a time"
        raise Problem(408, what) from None
    _look_at_callbacks(items)
    messages: list[Message] = []
    callback_urls: dict[int, str] = {}
    errors: list[FieldError] = []
    parts = 0
    for piece in slices(items):
        for item in piece:
            if not isinstance(item, BatchItem):
                errors += item
                messages.append(_NONE)
                continue
            seq = len(messages)
            if (message := _message(item, seq, rules)) is None:
                errors += failed_checks(item, checks, f"body[{seq}]")
                message = _NONE
            messages.append(message)
            parts += segments(message.text).segments
            if item.callback_url is not None:
                callback_urls[seq] = item.callback_url
        if len(errors) >= MOST_ERRORS:
            break
        await rules.wait_for_turn()
    if errors:
        raise invalid(errors, NOTHING_ACCEPTED)
    return BatchBody(messages, parts, callback_urls)


def _message(item: BatchItem, seq: int, rules: Rules) -> Message | None:
    """The message as it will be published; None if something is wrong with it."""
    try:
        number = normalise(item.number, rules.numbers)
    except ValueError:
        return None
    url = item.callback_url
    if text_error(item.text) or (url is not None and rules.url_error(url)):
        return None
    return item.message(seq, number, normal_text(item.text))


def slices(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """A few at a time, between which the event loop runs."""
    for i in range(0, len(items), SLICE):
        yield items[i : i + SLICE]


async def _read(request: Request, take: Take, checks: Mapping[str, Check]) -> Sequence[_Read]:
    """The items of the body."""
    items: Sequence[_Read]
    if media_type(request, JSON, NDJSON) == JSON:
        items = await _read_array(
            b"".join([piece async for piece in pieces(request, LARGE_BYTES, take)]), checks
        )
    else:
        items = await _read_lines(request, take, checks)
    if not items:
        raise invalid([FieldError("body", "has no messages")], NOTHING_ACCEPTED)
    if len(items) > MAX_BATCH_ITEMS:
        raise _too_many()
    return items


async def _read_array(body: bytes, checks: Mapping[str, Check]) -> Sequence[_Read]:
    """The items of an array: read as a whole, or one by one where that finds something wrong with it."""
    whole: list[BatchItem] | None = None
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        whole = _items.decode(body)
    await asyncio.sleep(0)
    if whole is not None and has_names_once(body, sum(map(BatchItem.strings, whole))):
        return whole
    reading = await _one_by_one(body, checks)
    if whole is None or len(reading.items) < len(whole):
        reading.refuse_unread(body)
    return reading.items


@dataclass(slots=True)
class _Reading:
    """Items that are read one by one. `is_over`: no further error would be listed."""

    checks: Mapping[str, Check]
    items: list[_Read] = field(default_factory=list)
    errors: int = 0

    @property
    def is_over(self) -> bool:
        return self.errors >= MOST_ERRORS

    def add(self, said: bytes) -> None:
        """One more. Problem 400 where it is no JSON, 413 where it is one too many."""
        if len(self.items) >= MAX_BATCH_ITEMS:
            raise _too_many()
        where = f"body[{len(self.items)}]"
        item = decoded_or_errors(said, _item, where, self.checks, strings=BatchItem.strings)
        if isinstance(item, list):
            self.errors += len(item)
        self.items.append(item)

    def refuse_unread(self, body: bytes) -> None:
        """Raises Problem 400 or 422 for an array of which no more items can be read, unless some have errors."""
        if not self.errors:
            raise _unread(body, len(self.items))


async def _one_by_one(body: bytes, checks: Mapping[str, Check]) -> _Reading:
    """The items of an array, until so much is wrong, or it is no JSON any more."""
    reading = _Reading(checks)
    for piece in items_of(body):
        reading.add(piece)
        if reading.is_over:
            break
        if len(reading.items) % SLICE == 0:
            await asyncio.sleep(0)
    return reading


async def _read_lines(request: Request, take: Take, checks: Mapping[str, Check]) -> list[_Read]:
    """The items, one a line, until so much is wrong."""
    reading = _Reading(checks)
    rest = b""
    async for piece in pieces(request, LARGE_BYTES, take):
        *lines, rest = (rest + piece).split(b"\n")
        for few in slices(lines):
            for line in few:
                if line.strip():
                    reading.add(line)
                    if reading.is_over:
                        return reading.items
            await asyncio.sleep(0)
        if len(rest) > SMALL_BYTES:
            at = f"body[{len(reading.items)}]"
            what = f"a line of over {SMALL_BYTES} bytes: end each message with a line end"
            raise Problem(413, f"{at}: {what}", [FieldError(at, what)])
    if rest.strip():
        reading.add(rest)
    return reading.items


def _unread(body: bytes, at: int) -> Problem:
    """Why no item can be cut out of a body at a place, where all before it are well."""
    try:
        _unlooked_at.decode(body)
    except RecursionError:
        pass
    except msgspec.DecodeError as error:
        return not_json(error, body)
    if not body.lstrip().startswith(b"["):
        return invalid([FieldError("body", "must be an array of messages")], NOTHING_ACCEPTED)
    return invalid([FieldError(f"body[{at}]", "too large or nested too deep")], NOTHING_ACCEPTED)


def _too_many() -> Problem:
    return Problem(413, f"more than {MAX_BATCH_ITEMS:,} messages: send them as several batches")


def _look_at_callbacks(items: Sequence[_Read]) -> None:
    """Problem 422 for callbacks in a batch that is too large to be tracked, which they need."""
    if len(items) <= MAX_TRACKED_ITEMS:
        return
    for k, item in enumerate(items):
        if isinstance(item, BatchItem) and item.callback_url is not None:
            what = f"only in batches of up to {MAX_TRACKED_ITEMS:,} messages: send fewer at a time, or leave it out"
            raise invalid([FieldError(f"body[{k}].callback_url", what)], NOTHING_ACCEPTED)
