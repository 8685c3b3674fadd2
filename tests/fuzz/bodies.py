"""Bodies of a hostile or broken publisher: random, mutated, and at the limits. Seeded."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from common.messages import MAX_BATCH_MESSAGES, MAX_BATCH_SPAN, MAX_BODY_BYTES, MAX_SEQ, MAX_TEXT_CHARS

NAMES = [f"fuzz-{i}" for i in range(8)]
NUMBERS = ["+358401234567", "+12025550123", "+999123456789012", "+3581", "0401234567", "", "+٣٥٨٤٠١٢٣٤٥٦٧"]
TEXTS = ["", "text", "ä€𝄞", "\\u0000", "\u2028", '"quoted"', "x" * 160]
# Each large seq costs the ledger a piece of 32 KiB, so there are only a few.
FAR_SEQS = [2**17 - 1, 2**17, 2**31, 2**32 - 1, 2**39, MAX_SEQ - 1]
BAD_SEQS = [-1, MAX_SEQ, 2**53, 2**63, 2**64, 10**30, 1.5, 1e15, "0", None, True]
WRONG: list[Any] = [None, True, False, 0, -1, 1.5, "", "text", [], {}, [[]], [None], {"a": 1}, 10**40]
LONGEST_RANDOM = 200
# About a hundred of a hundred thousand bodies are large.
LARGE_SHARE = 0.001

Fields = dict[str, Any]


def bodies(seed: int, count: int) -> Iterator[bytes]:
    """This many bodies of all kinds, including valid ones. The same seed gives the same bodies."""
    draw = random.Random(seed)
    for _ in range(count):
        if draw.random() < LARGE_SHARE:
            yield draw.choice(LARGE)(draw)
        else:
            yield draw.choice(KINDS)(draw)


def _fields(draw: random.Random) -> Fields:
    """The fields of a small valid batch."""
    first = draw.randrange(draw.choice([100, 100_000, 100_000]))  # some messages occur twice
    step = draw.choice([1, 1, 1, 3, -1])
    count = draw.randint(1, min(5, first + 1))
    fields: Fields = {
        "run": draw.choice(NAMES),
        "attempt": draw.choice([1, 1, 1, 2, 1_000_000]),
        "track": draw.random() < 0.1,
        "again": draw.random() < 0.1,
        "messages": [[first + step * i, draw.choice(NUMBERS), draw.choice(TEXTS)] for i in range(count)],
    }
    for name in ("attempt", "track", "again"):
        if draw.random() < 0.3:
            del fields[name]
    return fields


def _encoded(fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def _valid(draw: random.Random) -> bytes:
    return _encoded(_fields(draw))


def _valid_in_another_dress(draw: random.Random) -> bytes:
    """A valid body as another encoder writes it: other spacing, escapes, field order, and additional fields."""
    fields = _fields(draw)
    names = list(fields)
    draw.shuffle(names)
    shuffled = {name: fields[name] for name in names}
    if draw.random() < 0.5:
        shuffled[draw.choice(["x", "Run", "message", ""])] = draw.choice(WRONG)
    return json.dumps(shuffled, indent=draw.choice([None, 1]), ensure_ascii=draw.random() < 0.5).encode()


def _random_bytes(draw: random.Random) -> bytes:
    return draw.randbytes(draw.randrange(LONGEST_RANDOM))


def _random_json_characters(draw: random.Random) -> bytes:
    return "".join(
        draw.choices('{}[]",:0123456789.-+eE\\utrfalsn ', k=draw.randrange(LONGEST_RANDOM))
    ).encode()


def _truncated(draw: random.Random) -> bytes:
    body = _valid(draw)
    return body[: draw.randrange(len(body))]


def _bytes_changed(draw: random.Random) -> bytes:
    """A valid body with some bytes replaced, inserted or removed. Many are still valid, with other runs and seqs."""
    body = bytearray(_valid(draw))
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(body))
        match draw.randrange(3):
            case 0:
                body[at] = draw.randrange(256)
            case 1:
                body.insert(at, draw.randrange(256))
            case _:
                del body[at]
    return bytes(body)


def _run_twice(draw: random.Random) -> bytes:
    """A batch followed by the whole or the end of another."""
    body, more = _valid(draw), _valid(draw)
    return body + more[draw.randrange(len(more)) :]


def _wrong_type(draw: random.Random) -> bytes:
    fields = _fields(draw)
    match draw.randrange(4):
        case 0:
            return _encoded(draw.choice([*WRONG, list(fields.values()), [fields]]))
        case 1:
            fields[draw.choice(list(fields))] = draw.choice(WRONG)
        case 2:
            fields["messages"][draw.randrange(len(fields["messages"]))] = draw.choice(WRONG)
        case _:
            message = draw.choice(fields["messages"])
            message[draw.randrange(3)] = draw.choice(WRONG)
    return _encoded(fields)


def _field_missing(draw: random.Random) -> bytes:
    fields = _fields(draw)
    if draw.random() < 0.5:
        del fields[draw.choice(["run", "messages"])]
    else:
        message = draw.choice(fields["messages"])
        if draw.random() < 0.5:
            message.pop()
        else:
            message.append(draw.choice(WRONG))
    return _encoded(fields)


def _field_twice(draw: random.Random) -> bytes:
    """A batch with a duplicate field. JSON does not define which one counts."""
    fields, other = _fields(draw), _fields(draw)
    name = draw.choice(["run", "attempt", "messages"])
    value = other.get(name, 3) if draw.random() < 0.5 else draw.choice(WRONG)
    return _encoded(fields)[:-1] + b"," + _encoded({name: value})[1:]


def _bad_seq(draw: random.Random) -> bytes:
    fields = _fields(draw)
    draw.choice(fields["messages"])[0] = draw.choice(BAD_SEQS)
    return _encoded(fields)


def _number_in_another_form(draw: random.Random) -> bytes:
    number = draw.choice(
        ["1e2", "1E400", "-0", "-0.0", "00", "1.0", "NaN", "Infinity", "9" * 400, "0x10", "1_0", "+1"]
    )
    body = b'{"run":"fuzz-1","attempt":%s,"messages":[[%s,"+358401234567",""]]}'
    one = number.encode()
    return body % ((one, b"1") if draw.random() < 0.5 else (b"1", one))


def _seqs_far_apart(draw: random.Random) -> bytes:
    fields = _fields(draw)
    span = MAX_BATCH_SPAN + draw.choice([-2, -1, 0, 1, 10**6])
    low = draw.choice([0, 5])
    fields["messages"] = [[low, "+358401234567", ""], [low + span, "+358401234567", ""]]
    draw.shuffle(fields["messages"])
    return _encoded(fields)


def _seq_far_out(draw: random.Random) -> bytes:
    fields = _fields(draw)
    fields["messages"] = [[draw.choice(FAR_SEQS), "+358401234567", "far out"]]
    return _encoded(fields)


def _seq_twice(draw: random.Random) -> bytes:
    fields = _fields(draw)
    fields["messages"].append(draw.choice(fields["messages"]))
    return _encoded(fields)


def _at_a_limit(draw: random.Random) -> bytes:
    fields = _fields(draw)
    over = draw.randrange(2)
    match draw.randrange(4):
        case 0:
            fields["run"] = "f" * (40 + over)
        case 1:
            fields["attempt"] = draw.choice([0, 1, 1_000_000, 1_000_001])
        case 2:
            character = draw.choice(["x", "ä", "𝄞"])
            fields["messages"][0][2] = character * (MAX_TEXT_CHARS + over)
        case _:
            fields["messages"] = [] if over else fields["messages"][:1]
    return _encoded(fields)


def _bad_run(draw: random.Random) -> bytes:
    fields = _fields(draw)
    fields["run"] = draw.choice(
        ["", "No Such Name", "fuzz_1", "fuzz-1\n", "fuzz:1", "../fuzz", "ä", "fuzz-1\0"]
    )
    return _encoded(fields)


def _not_utf8(draw: random.Random) -> bytes:
    body = bytearray(_valid(draw))
    at = draw.randrange(len(body))
    body[at:at] = draw.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\x80"])
    return bytes(body)


def _lone_surrogate(draw: random.Random) -> bytes:
    return _valid(draw).replace(b'"text"', rb'"\ud800"')


def _nested(draw: random.Random) -> bytes:
    depth = draw.choice([10, 1000, 20_000])
    inside = (b"[" * depth + b"]" * depth) if draw.random() < 0.5 else b'{"a":' * depth + b"1" + b"}" * depth
    match draw.randrange(3):
        case 0:
            return inside
        case 1:
            return b'{"run":"fuzz-2","messages":%s}' % inside
        case _:
            return b'{"run":"fuzz-2","x":%s,"messages":[[7,"+358401234567",""]]}' % inside


def _many_messages(draw: random.Random) -> bytes:
    """A batch with the maximum number of messages, or one more."""
    fields = _fields(draw)
    count = MAX_BATCH_MESSAGES + draw.randrange(2)
    fields["messages"] = [[seq, "+358401234567", ""] for seq in range(count)]
    return _encoded(fields)


def _many_bytes(draw: random.Random) -> bytes:
    """A body of the maximum size, padded with spaces, or one byte more."""
    return _valid(draw).ljust(MAX_BODY_BYTES + draw.randrange(2))


KINDS: list[Callable[[random.Random], bytes]] = [
    *(_valid, _valid_in_another_dress, _bytes_changed, _bytes_changed, _truncated, _run_twice),
    *(_random_bytes, _random_json_characters, _wrong_type, _field_missing, _field_twice, _not_utf8),
    *(_bad_seq, _number_in_another_form, _seqs_far_apart, _seq_far_out, _seq_twice, _at_a_limit),
    *(_bad_run, _lone_surrogate),
]
LARGE = [_many_messages, _many_bytes, _nested]
