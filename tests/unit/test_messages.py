"""common/messages.py: the wire form of a batch, its limits, numbers and run ids."""

import json
import re
import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import strict_json
from common.errors import BadBody
from common.messages import (
    MAX_BATCH_MESSAGES,
    MAX_BATCH_SPAN,
    MAX_BODY_BYTES,
    MAX_SEQ,
    MAX_TEXT_CHARS,
    Batch,
    Message,
    bad_numbers,
    decode_batch,
    encode_batch,
    is_e164,
    is_run_id,
    new_run_id,
)

NUMBER = "+358401234567"
SECRET = "a-text-nobody-may-see"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
run_ids = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    base = draw(st.integers(0, MAX_SEQ - MAX_BATCH_SPAN))
    offsets = draw(st.lists(st.integers(0, MAX_BATCH_SPAN - 1), min_size=1, max_size=20, unique=True))
    return Batch(
        run=draw(run_ids),
        attempt=draw(st.integers(1, 1_000_000)),
        track=draw(st.booleans()),
        messages=[Message(base + k, draw(texts), draw(texts)) for k in offsets],
    )


def fields(**changed: Any) -> dict[str, Any]:
    return {"run": "r", "attempt": 1, "track": False, "messages": [[0, NUMBER, SECRET]], **changed}


def body(**changed: Any) -> bytes:
    return json.dumps(fields(**changed)).encode()


def body_without(field: str) -> bytes:
    return json.dumps({name: value for name, value in fields().items() if name != field}).encode()


def body_of_seqs(*seqs: Any) -> bytes:
    return body(messages=[[seq, NUMBER, SECRET] for seq in seqs])


@given(batches())
def test_a_batch_comes_back_as_it_went(batch: Batch) -> None:
    """Decoding what was encoded gives the same batch, and its seqs in its order."""
    decoded, seqs = decode_batch(encode_batch(batch))
    assert decoded == batch
    assert seqs.dtype == np.int64
    assert seqs.tolist() == [m.seq for m in batch.messages]


def test_the_body_is_the_documented_json() -> None:
    """The wire form is docs/wire-format.md's, to the letter, so that any language can publish it."""
    batch = Batch(run="20261121-072613-9f3a", messages=[Message(0, NUMBER, "text"), Message(1, NUMBER, "é")])
    assert json.loads(encode_batch(batch)) == {
        "run": "20261121-072613-9f3a",
        "attempt": 1,
        "track": False,
        "messages": [[0, NUMBER, "text"], [1, NUMBER, "é"]],
    }


def test_attempt_and_track_may_be_left_out() -> None:
    """A stranger's body needs run and messages only: it is a first attempt, not tracked."""
    batch, _ = decode_batch(b'{"run": "r", "messages": [[0, "+358401234567", "x"]]}')
    assert (batch.attempt, batch.track) == (1, False)


def test_unknown_fields_are_ignored() -> None:
    """A later version may add fields to the batch and to a message without breaking this one."""
    batch, _ = decode_batch(body(priority=3, messages=[[0, NUMBER, "x", {"ttl": 5}]]))
    assert batch.messages == [Message(0, NUMBER, "x")]


def test_the_limits_themselves_are_allowed() -> None:
    """10,000 messages, 1,600 characters, the last seq, the widest span, the longest name, and 1 MiB: all decode."""
    full = body(messages=[[seq, "+1234567", ""] for seq in range(MAX_BATCH_MESSAGES)])
    assert len(decode_batch(full)[0].messages) == MAX_BATCH_MESSAGES
    assert decode_batch(body(messages=[[0, NUMBER, "ä" * MAX_TEXT_CHARS]]))
    assert decode_batch(body_of_seqs(MAX_SEQ - 1, MAX_SEQ - MAX_BATCH_SPAN))
    assert decode_batch(body(run="a-0" + "z" * 37))
    assert decode_batch(body() + b" " * (MAX_BODY_BYTES - len(body())))


BAD_BODIES = {
    "empty": b"",
    "not JSON": b"hello",
    "JSON cut short": body()[:-5],
    "JSON and more": body() + b"x",
    "an array": b"[]",
    "null": b"null",
    "a number": b"5",
    "no run": body_without("run"),
    "no messages": body_without("messages"),
    "an empty list": body(messages=[]),
    "messages null": body(messages=None),
    "a message too short": body(messages=[[0, NUMBER]]),
    "a message as an object": body(messages=[{"seq": 0, "to": NUMBER, "text": SECRET}]),
    "10,001 messages": body(messages=[[seq, "+1234567", ""] for seq in range(MAX_BATCH_MESSAGES + 1)]),
    "over 1 MiB": body() + b" " * (MAX_BODY_BYTES - len(body()) + 1),
    "1,601 characters": body(messages=[[0, NUMBER, "ä" * (MAX_TEXT_CHARS + 1)]]),
    "run empty": body(run=""),
    "run of 41": body(run="a" * 41),
    "run in capitals": body(run="Run"),
    "run with a line end": body(run="run\n"),
    "run with a dot": body(run="a.b"),
    "run a number": body(run=NUMBER),
    "run null": body(run=None),
    "attempt 0": body(attempt=0),
    "attempt huge": body(attempt=1_000_001),
    "attempt a float": body(attempt=1.0),
    "attempt a string": body(attempt="1"),
    "attempt a boolean": body(attempt=True),
    "track a number": body(track=1),
    "seq negative": body_of_seqs(-1),
    "seq too large": body_of_seqs(MAX_SEQ),
    "seq beyond 64 bits": body_of_seqs(2**70),
    "seq a float": body_of_seqs(1.0),
    "seq in exponents": body().replace(b"[[0,", b"[[1e3,"),
    "seq a string": body_of_seqs("0"),
    "seq a boolean": body_of_seqs(True),
    "seq twice in a row": body_of_seqs(3, 3),
    "seq twice apart": body_of_seqs(3, 1, 2, 3),
    "span too large": body_of_seqs(0, MAX_BATCH_SPAN),
    "span too large, backwards": body_of_seqs(MAX_BATCH_SPAN + 7, 7),
    "NaN": body_of_seqs(float("nan")),
    "Infinity": body_of_seqs(float("inf")),
    "number a number": body(messages=[[0, 358401234567, SECRET]]),
    "text null": body(messages=[[0, NUMBER, None]]),
    "not UTF-8 in a text": body().replace(b"nobody", b"\xff\xfe"),
    "not UTF-8 in a number": body().replace(b"+358", b"+\xe9358"),
    "Latin-1": json.dumps(fields(run="café"), ensure_ascii=False).encode("latin-1"),
    "UTF-16": body().decode().encode("utf-16"),
    "a lone surrogate": body(messages=[[0, NUMBER, "\ud800"]]),
    "half of a surrogate pair behind": body(messages=[[0, NUMBER, "a\udc00"]]),
    "a run twice": body()[:-1] + b', "run": "r"}',
    "messages twice": b'{"messages": [[1, "+1234567", "x"]], ' + body()[1:],
    "attempt twice, once in escapes": b'{"\\u0061ttempt": 2, ' + body(attempt=1)[1:],
    "a name twice in an unknown field": body()[:-1] + b', "z": {"a": 1, "a": 2}}',
    "attempt null, run a number": body(attempt=None, run=5),
    "deep nesting": b'{"run": "r", "messages": ' + b"[" * 200_000,
}


@pytest.mark.parametrize("bad", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_body_that_is_no_batch_is_told_in_words_that_carry_nothing_of_it(bad: bytes) -> None:
    """Every kind of bad body raises BadBody; the reason is one short line without a number or text of a message."""
    with pytest.raises(BadBody) as caught:
        decode_batch(bad)
    reason = str(caught.value)
    assert 0 < len(reason) <= 200
    assert reason.isprintable()
    assert "358" not in reason
    assert "nobody" not in reason
    quoted = caught.value.__context__ is not None and not caught.value.__suppress_context__
    assert not quoted, "a traceback would show the decoder's own error, which quotes the body"


@pytest.mark.parametrize("bad", ["not UTF-8 in a text", "not UTF-8 in a number", "Latin-1"])
def test_a_body_in_another_encoding_is_told_so(bad: str) -> None:
    """Who published it learns what to change."""
    with pytest.raises(BadBody, match=r"^not UTF-8$"):
        decode_batch(BAD_BODIES[bad])


@pytest.mark.parametrize("bad", [name for name in BAD_BODIES if "twice" in name and "seq" not in name])
def test_a_name_that_is_twice_is_the_reason(bad: str) -> None:
    """Which of the two counts depends on the reader: no one knows what the publisher meant."""
    with pytest.raises(BadBody, match=r"^a name is twice in an object$"):
        decode_batch(BAD_BODIES[bad])


@pytest.mark.parametrize("bad", ["a lone surrogate", "half of a surrogate pair behind"])
def test_half_a_character_is_the_reason(bad: str) -> None:
    """JavaScript cuts a text within an emoji."""
    with pytest.raises(BadBody, match="half of a surrogate pair"):
        decode_batch(BAD_BODIES[bad])


@pytest.mark.parametrize(
    "names", [("attempt",), ("track",), ("again",), ("simulated",), ("attempt", "track", "again")]
)
def test_null_is_not_given(names: tuple[str, ...]) -> None:
    """As Java, Go and PHP write what has no value."""
    plain, _ = decode_batch(body())
    fields = {name: value for name, value in json.loads(body()).items() if name not in names}
    expected = decode_batch(json.dumps(fields).encode())[0]
    assert decode_batch(json.dumps({**fields, **dict.fromkeys(names)}).encode())[0] == expected
    assert expected.messages == plain.messages


def test_our_own_bodies_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's reader takes twice as long as all else that a sender does with a body."""
    monkeypatch.setattr(strict_json, "read", lambda _: pytest.fail("read again"))
    messages = [Message(0, NUMBER, 'a"]\\😀')]
    for optional in ({}, {"again": True}, {"simulated": True}, {"again": False, "simulated": True}):
        batch = Batch(run="r-1", attempt=2, track=True, messages=messages, **optional)
        assert decode_batch(encode_batch(batch))[0] == batch


def decodes_or_is_bad(anything: bytes) -> None:
    try:
        batch, seqs = decode_batch(anything)
    except BadBody:
        return
    assert is_run_id(batch.run)
    assert 1 <= seqs.size == np.unique(seqs).size <= MAX_BATCH_MESSAGES


def test_deep_nesting_in_an_unknown_field_is_ignored_or_a_bad_body() -> None:
    """How deep the JSON decoder goes depends on Python and its stack: 3.14 counts bytes, not levels."""
    decodes_or_is_bad(body()[:-1] + b', "z": ' + b"[" * 200_000 + b"]" * 200_000 + b"}")


@given(st.binary(max_size=300))
def test_arbitrary_bytes_decode_or_raise_bad_body(anything: bytes) -> None:
    """No bytes at all make the decoder raise anything but BadBody."""
    decodes_or_is_bad(anything)


@given(st.fixed_dictionaries({"run": json_values, "attempt": json_values, "messages": json_values}))
def test_arbitrary_values_in_the_right_fields_decode_or_raise_bad_body(values: dict[str, Any]) -> None:
    """No JSON values of the wrong type make the decoder raise anything but BadBody."""
    decodes_or_is_bad(json.dumps(values).encode())


@given(batches(), st.data())
def test_a_damaged_body_decodes_or_raises_bad_body(batch: Batch, data: st.DataObject) -> None:
    """Nor does a good body in which one byte was changed."""
    good = bytearray(encode_batch(batch))
    good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_is_bad(bytes(good))


def test_a_message_id_is_the_run_and_the_first_seq() -> None:
    """`<run>.<first seq>`, as the AMQP message is called."""
    batch = Batch(run="a-run", messages=[Message(41, NUMBER, ""), Message(7, NUMBER, "")])
    assert batch.message_id == "a-run.41"


@pytest.mark.parametrize("number", ["+1234567", "+358401234567", "+999999999999999"])
def test_a_plus_and_7_to_15_digits_are_e164(number: str) -> None:
    """From the shortest to the longest number of ITU-T E.164."""
    assert is_e164(number)


NOT_E164 = [
    "",
    "+",
    "358401234567",
    "+123456",
    "+1234567890123456",
    "+0401234567",
    "+35840 1234567",
    "+358401234567\n",
    "\n+358401234567",
    "+358401234567\n+358401234567",
    "++358401234567",
    "+35840123456a",
    "+٣٥٨٤٠١٢٣٤٥",
    "00358401234567",
]


@pytest.mark.parametrize("number", NOT_E164)
def test_anything_else_is_no_e164(number: str) -> None:
    """Neither missing country codes, nor spaces, line ends, or digits of other scripts."""
    assert not is_e164(number)


@pytest.mark.parametrize("number", NOT_E164)
def test_one_bad_number_is_found_among_good_ones(number: str) -> None:
    """Only the bad message's position is given, even if its number holds two good ones and a line end."""
    messages = [Message(10 + k, to, "") for k, to in enumerate([NUMBER, number, NUMBER])]
    assert bad_numbers(messages) == [1]


@given(st.lists(st.sampled_from([NUMBER, "+1234567", *NOT_E164]), max_size=8))
def test_bad_numbers_agree_with_the_check_of_each(numbers: list[str]) -> None:
    """The fast check of a whole batch finds what one check a number finds."""
    messages = [Message(k, to, "") for k, to in enumerate(numbers)]
    assert bad_numbers(messages) == [k for k, to in enumerate(numbers) if not is_e164(to)]


@pytest.mark.parametrize("run", ["a", "0", "-", "a" * 40, "20261121-072613-9f3a"])
def test_run_ids(run: str) -> None:
    """1 to 40 of a-z, 0-9 and -."""
    assert is_run_id(run)


@pytest.mark.parametrize("run", ["", "a" * 41, "A", "a_b", "a.b", "a b", "a\n", "ä", "a:b", "a*"])
def test_what_is_no_run_id(run: str) -> None:
    """What could be mistaken in a Redis key, a message id or a shell is refused."""
    assert not is_run_id(run)


@given(st.text(max_size=45))
def test_run_ids_are_the_same_on_the_wire(run: str) -> None:
    """A name that the command line takes is one that the decoder takes, and the other way round."""
    anything = json.dumps(fields(run=run)).encode()
    if is_run_id(run):
        assert decode_batch(anything)[0].run == run
    else:
        with pytest.raises(BadBody):
            decode_batch(anything)


def test_generated_run_ids() -> None:
    """`YYYYMMDD-HHMMSS-xxxx`, fit for a run, and not the same twice."""
    made = {new_run_id() for _ in range(20)}
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", run) and is_run_id(run) for run in made)
    assert len(made) > 1
