"""The connection's shorter way in: whole deliveries go to their consumer at once, all else to pika, in order."""

from collections.abc import Sequence
from functools import partial
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties, ConnectionParameters, frame
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.connection import Connection
from pika.exceptions import InvalidFrameError
from pika.spec import Basic

from common.broker.rabbitmq.direct import DirectConnection, Template, properties_of

CHANNEL, DIRECT, OTHER = 1, "ctag-direct", "ctag-other"
LARGEST_FRAME = 64

Seen = list[tuple[str, int, bool, bytes]]


def connected(seen: Seen, direct: bool) -> DirectConnection:
    """A connection with an open channel, without a socket: deliveries to either consumer end up in `seen`."""
    connection = DirectConnection.__new__(DirectConnection)
    Connection.__init__(connection, ConnectionParameters(), internal_connection_workflow=False)
    connection.direct = {}
    channel = Channel(connection, CHANNEL, lambda _: None)
    channel._set_state(channel.OPEN)
    connection._channels[CHANNEL] = channel

    def through_pika(_: Channel, method: Basic.Deliver, __: BasicProperties, body: bytes) -> None:
        seen.append((method.consumer_tag, method.delivery_tag, method.redelivered, body))

    for tag in (DIRECT, OTHER):
        channel._consumers[tag] = through_pika
    if direct:

        def straight(tag: int, redelivered: bool, body: bytes) -> None:
            seen.append((DIRECT, tag, redelivered, body))

        connection.direct[CHANNEL, DIRECT.encode()] = straight
    return connection


def delivery(consumer: str, tag: int, redelivered: bool, body: bytes) -> bytes:
    """As RabbitMQ sends it: the method, the header, and the body in as many frames as it takes."""
    method = Basic.Deliver(consumer, tag, redelivered, "", "sms_queue")
    properties = BasicProperties(content_type="application/json", delivery_mode=2, message_id=f"run.{tag}")
    frames = [frame.Method(CHANNEL, method), frame.Header(CHANNEL, len(body), properties)]
    pieces = [body[i : i + LARGEST_FRAME] for i in range(0, len(body), LARGEST_FRAME)]
    return b"".join(one.marshal() for one in [*frames, *(frame.Body(CHANNEL, piece) for piece in pieces)])


deliveries = st.lists(
    st.tuples(
        st.sampled_from([DIRECT, OTHER]), st.booleans(), st.binary(max_size=3 * LARGEST_FRAME), st.booleans()
    ),
    max_size=8,
)


def cut(stream: bytes, sizes: Sequence[int]) -> list[bytes]:
    """The stream in pieces of these sizes, again and again, as a socket might give it."""
    pieces, at, k = [], 0, 0
    while at < len(stream):
        size = sizes[k % len(sizes)]
        pieces.append(stream[at : at + size])
        at, k = at + size, k + 1
    return pieces


@given(deliveries, st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_the_short_way_and_pikas_own_see_the_same(
    sent: list[tuple[str, bool, bytes, bool]], sizes: list[int]
) -> None:
    """Whatever comes, and however the socket cuts it: same deliveries, same order, same bytes counted."""
    stream = b""
    for tag, (consumer, redelivered, body, heartbeat) in enumerate(sent, 1):
        stream += delivery(consumer, tag, redelivered, body)
        stream += frame.Heartbeat().marshal() if heartbeat else b""
    short: Seen = []
    long: Seen = []
    ours, pikas = connected(short, direct=True), connected(long, direct=False)
    for piece in cut(stream, sizes):
        ours._on_data_available(piece)
        AsyncioConnection._on_data_available(pikas, piece)
    assert short == long
    assert len(short) == len(sent)
    assert ours.bytes_received == pikas.bytes_received == len(stream)
    assert ours.frames_received == pikas.frames_received


@given(st.from_regex(r"[a-z0-9-]{1,40}\.[0-9]{1,13}", fullmatch=True), st.binary(min_size=1, max_size=200))
def test_a_template_makes_the_frames_that_pika_makes(message_id: str, body: bytes) -> None:
    """Byte for byte."""
    emitted: list[bytes] = []
    connection = connected([], direct=False)
    connection._body_max_length = 1000
    with patch.object(connection, "_adapter_emit_data", emitted.append):
        connection._channels[CHANNEL].basic_publish(
            "", "sms_queue", body, properties_of(message_id), mandatory=True
        )
    assert Template(CHANNEL, "sms_queue").frames(message_id, body) == b"".join(emitted)


def test_what_is_no_frame_is_left_to_pika() -> None:
    """A wrong end of a frame is an error, as ever, even where the delivery would have gone the short way."""
    seen: Seen = []
    wrong = bytearray(delivery(DIRECT, 1, False, b"body"))
    wrong[-1] = 0
    with pytest.raises(InvalidFrameError):
        connected(seen, direct=True)._on_data_available(bytes(wrong))
    assert seen == []


def test_a_cancelled_consumer_is_pikas_affair() -> None:
    """Once it is out of `direct`, pika decides: here it has no such consumer any more, and drops the delivery."""
    seen: Seen = []
    connection = connected(seen, direct=True)
    connection.direct.clear()
    del connection._channels[CHANNEL]._consumers[DIRECT]
    connection._on_data_available(delivery(DIRECT, 1, False, b"body") + delivery(OTHER, 2, True, b"other"))
    assert seen == [(OTHER, 2, True, b"other")]


@pytest.mark.parametrize("nonsense", [b"\x09\x00\x00\x00\x00\x00\x00\xce", b"AMQP\x00\x00\x09\x01"])
def test_what_begins_no_frame_is_left_to_pika_at_once(nonsense: bytes) -> None:
    """It raises, or goes on, just as it would by itself; nothing piles up in wait for more."""
    ends: list[Seen | str] = []
    for direct in (True, False):
        seen: Seen = []
        connection = connected(seen, direct)
        take = (
            connection._on_data_available
            if direct
            else partial(AsyncioConnection._on_data_available, connection)
        )
        try:
            take(nonsense + delivery(DIRECT, 1, False, b"body"))
            ends.append(seen)
        except InvalidFrameError:
            ends.append("invalid")
    assert ends[0] == ends[1]
