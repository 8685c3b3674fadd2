"""Filters of events: what they say yes to, which values are refused, and who is grouped with whom."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from common.messages import Message
from common.tracking.port import Status, Step
from common.web.problems import Problem
from gateway.api.views import MessageEvent, message_event
from gateway.live.filters import Filters, filters_of
from gateway.live.frames import FRAME_BYTES, Encoded, Frame, Join, pieces, sse_frame, websocket_message
from gateway.live.limits import LiveLimits
from gateway.live.subscribers import Subscriber
from gateway.live.subscriptions import Subscriptions


def step(
    run: str = "a", seq: int = 0, status: Status = Status.SENT, attempt: int = 1, text: str = "hello"
) -> Step:
    return Step(
        run=run,
        message=Message(seq, "+541166587382", text),
        status=status,
        attempt=attempt,
        at_us=1_795_282_390_123_456,
    )


class Connection:
    """A client's connection, of which nothing is asked here."""

    def streams(self) -> None: ...

    def cut_off(self) -> None: ...


class Ear(Subscriber):
    """A subscriber that keeps what it is offered."""

    def __init__(self, filters: Filters, join: Join = websocket_message) -> None:
        super().__init__(filters, join, Connection(), LiveLimits())
        self.offered: list[Frame] = []

    def offer(self, frame: Frame) -> None:
        self.offered.append(frame)

    @property
    def heard(self) -> list[Any]:
        """All events, unpacked from WebSocket messages."""
        return [event for message in self.offered for event in msgspec.json.decode(message)]


def test_no_filter_lets_everything_through() -> None:
    """An empty query, also with blank values, asks for all."""
    assert filters_of(QueryParams("")) == filters_of(QueryParams("run=&uuid=&status=")) == Filters()
    assert all(Filters().let_through(step(status=status)) for status in Status)


def test_statuses_are_separated_by_commas_or_repeated() -> None:
    """`status=sent,failed` and `status=sent&status=failed` ask for the same, and so group together."""
    both = filters_of(QueryParams("status=sent, failed"))

    assert (
        both
        == filters_of(QueryParams("status=failed&status=sent"))
        == Filters(statuses=frozenset({Status.SENT, Status.FAILED}))
    )
    assert both.let_through(step(status=Status.SENT))
    assert not both.let_through(step(status=Status.QUEUED))
    assert filters_of(QueryParams("status=" + ",".join(Status))) == Filters()


def test_a_message_filter_goes_with_its_run() -> None:
    """Who follows one message is told of its run's progress, and of no other run's."""
    filters = filters_of(QueryParams("uuid=20261121-072613-9f3a.7"))

    assert filters == Filters("20261121-072613-9f3a", "20261121-072613-9f3a.7")
    assert filters.let_through(step("20261121-072613-9f3a", 7))
    assert not filters.let_through(step("20261121-072613-9f3a", 70))


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ("run=Not A Run", "query.run"),
        ("run=" + "a" * 41, "query.run"),
        ("run=a&run=b", "query.run"),
        ("run=%00", "query.run"),
        ("uuid=a", "query.uuid"),
        ("uuid=a.", "query.uuid"),
        ("uuid=a.-1", "query.uuid"),
        ("uuid=a.01", "query.uuid"),
        ("uuid=a.1e3", "query.uuid"),
        ("uuid=a.²", "query.uuid"),
        ("uuid=a.9999999999999", "query.uuid"),
        ("uuid=.5", "query.uuid"),
        ("uuid=b.1&run=a", "query.uuid"),
        ("status=sent,lost", "query.status"),
        ("status=SENT", "query.status"),
    ],
)
def test_a_bad_value_is_named(query: str, where: str) -> None:
    """Each bad value is a 422 that says which filter it is in, and never repeats the value."""
    with pytest.raises(Problem) as caught:
        filters_of(QueryParams(query))

    assert caught.value.status == 422
    assert [what.where for what in caught.value.errors] == [where]


def test_all_bad_values_are_named_at_once() -> None:
    """Two mistakes are told together."""
    with pytest.raises(Problem) as caught:
        filters_of(QueryParams("run=A&status=lost"))

    assert [what.where for what in caught.value.errors] == ["query.run", "query.status"]


runs = st.sampled_from(["a", "b"])
steps = st.builds(step, runs, st.integers(0, 2), st.sampled_from(Status))
filters = st.builds(
    lambda run, seq, statuses: Filters(run, f"{run}.{seq}" if run and seq is not None else None, statuses),
    st.none() | runs,
    st.none() | st.integers(0, 2),
    st.frozensets(st.sampled_from(Status), max_size=3),
)


@given(st.lists(filters, min_size=1, max_size=8), st.lists(steps, max_size=12))
async def test_everybody_hears_what_his_filters_let_through(asked: list[Filters], told: list[Step]) -> None:
    """The index of groups changes nothing about who hears what: as if each filter were asked about each step."""
    subscriptions = Subscriptions()
    ears = [Ear(it) for it in asked]
    for ear in ears:
        subscriptions.add(ear)

    for it in told:
        subscriptions.add_step(it, message_event)
        subscriptions.add_run(it.run, b'{"type":"run","run":"%b"}' % it.run.encode())
    await subscriptions.broadcast()

    for ear in ears:
        wanted = [
            kind
            for it in told
            for kind, wants in (
                (("message", it.uuid, it.status), ear.filters.let_through(it)),
                (("run", it.run), ear.filters.run in (None, it.run)),
            )
            if wants
        ]
        heard = [
            (e["type"], e["uuid"], e["status"]) if "uuid" in e else (e["type"], e["run"]) for e in ear.heard
        ]
        assert sorted(heard, key=str) == sorted(wanted, key=str)
        assert [e["uuid"] for e in ear.heard if "uuid" in e] == [
            kind[1] for kind in wanted if kind[0] == "message"
        ]


async def test_an_event_is_encoded_once_and_a_frame_is_shared() -> None:
    """However many listen: one encoding an event, and the very same bytes for all with the same filters."""
    subscriptions = Subscriptions()
    same = [Ear(Filters(run="a")) for _ in range(250)]
    others = [Ear(Filters()), Ear(Filters(), sse_frame), Ear(Filters(statuses=frozenset({Status.SENT})))]
    for ear in (*same, *others):
        subscriptions.add(ear)
    encoded = 0

    def encode(it: Step) -> bytes:
        nonlocal encoded
        encoded += 1
        return message_event(it)

    size = subscriptions.add_step(step(), encode)
    await subscriptions.broadcast()

    assert encoded == 1
    assert size == len(message_event(step()))
    assert len({id(frame) for ear in same for frame in ear.offered}) == 1
    assert all(len(ear.offered) == 1 for ear in others)


async def test_who_left_hears_nothing_and_leaves_nothing_behind() -> None:
    """Leaving takes the group and its index entries away, so that clients that come and go cost nothing for good."""
    subscriptions = Subscriptions()
    ears = [Ear(Filters("a", f"a.{seq}")) for seq in range(50)]
    for ear in ears:
        subscriptions.add(ear)
    for ear in ears:
        subscriptions.remove(ear)
        subscriptions.remove(ear)

    assert subscriptions.add_step(step(seq=3), message_event) == 0
    await subscriptions.broadcast()

    assert len(subscriptions) == 0
    assert not any(ear.offered for ear in ears)
    assert not any(vars(subscriptions)[name] for name in ("_groups", "_by_message", "_by_run"))


@given(st.lists(st.integers(1, FRAME_BYTES * 2), max_size=30))
def test_pieces_are_all_of_it_in_order(sizes: list[int]) -> None:
    """No event is lost or moved, and a piece is over the limit only where one event is."""
    events = [Encoded(b"message", b"x" * size) for size in sizes]

    parts = list(pieces(events))

    assert [event for part in parts for event in part] == events
    assert all(len(part) == 1 or sum(len(e.json) for e in part) <= FRAME_BYTES for part in parts)


def test_a_server_sent_event_stands_in_one_line() -> None:
    """A line end in a text can't end the event: it is escaped."""
    told = step(text="one\ntwo\r\n\ndata: three\u2028")

    lines = sse_frame([Encoded(b"message", message_event(told))]).decode().split("\n")

    assert lines[0] == "event: message"
    assert msgspec.json.decode(lines[1].removeprefix("data: "))["text"] == told.text
    assert lines[2:] == ["", ""]


def test_a_message_event_is_as_documented() -> None:
    """What is sent decodes to the struct that the documentation is made of."""
    event = msgspec.json.decode(message_event(step()), type=MessageEvent)

    assert event == MessageEvent(
        "a", "a.0", Status.SENT, 1, "2026-11-21T17:33:10.123456Z", "+541166587382", "hello"
    )
