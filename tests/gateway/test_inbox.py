"""gateway/api/inbox.py: what was sent can be listed, waited for and thrown away, and tests that use it don't race."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from yarl import URL

from common.messages import Message
from common.sms.numbers import NumberRules
from common.tracking.memory import MemoryTracker
from common.tracking.port import Status, Step
from common.web.problems import Problem
from common.web.server import serving
from gateway.api.inbox import InboxRoutes
from gateway.live.inbox import Inbox, InboxLimits
from tests.gateway.running import running
from tests.waiting import eventually

ANNA, BERT = "+358401234567", "+541166587382"
# 2026-11-21T07:26:13.123456Z
SENT_AT_US = 1_795_245_973_123_456


def step(seq: int, to: str = ANNA, status: Status = Status.SENT, text: str = "") -> Step:
    return Step(
        run="a-run",
        message=Message(seq=seq, to=to, text=text or f"text {seq}"),
        status=status,
        attempt=1,
        at_us=SENT_AT_US + seq,
    )


class Served:
    """An inbox behind a real server, on its own as far as the gateway goes."""

    def __init__(
        self,
        tracker: MemoryTracker,
        inbox: Inbox,
        running: "asyncio.Task[None]",
        session: aiohttp.ClientSession,
        base: str,
    ) -> None:
        self.tracker, self.inbox, self.running = tracker, inbox, running
        self._session, self._base = session, base

    def tell(self, *steps: Step) -> None:
        self.tracker.publish(list(steps))

    async def ask(self, method: str, path: str) -> tuple[int, Any]:
        """The status and the JSON of an answer; the path goes out as it is typed."""
        async with self._session.request(method, URL(self._base + path, encoded=True)) as answer:
            return answer.status, await answer.json(content_type=None) if await answer.read() else None

    async def texts(self, query: str = "") -> list[str]:
        status, body = await self.ask("GET", f"/inbox{query}")
        assert status == 200, body
        return [message["text"] for message in body["messages"]]

    def wait(self, query: str) -> "asyncio.Task[tuple[int, Any]]":
        return asyncio.create_task(self.ask("GET", f"/inbox/wait?{query}"))

    async def waiting(self, requests: int) -> None:
        await eventually(lambda: self.inbox.waiting == requests)


def problems_answered(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Any]:
    async def answered(request: Request) -> Response:
        try:
            return await handler(request)
        except Problem as problem:
            return problem.response()

    return answered


def app_of(inbox: Inbox) -> Starlette:
    return Starlette(
        routes=[
            Route(o.path, problems_answered(o.handler), methods=[o.method])
            for o in InboxRoutes(inbox, NumberRules(reserved=True)).operations()
        ]
    )


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve() as served:
        yield served


@contextlib.asynccontextmanager
async def serve(**limits: int) -> AsyncIterator[Served]:
    tracker = MemoryTracker()
    inbox = Inbox(tracker, InboxLimits(**limits))
    running = asyncio.create_task(inbox.run())
    async with serving(app_of(inbox), "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        served = Served(tracker, inbox, running, session, f"http://127.0.0.1:{port}")

        async def listens() -> bool:
            served.tell(step(999, text="are you there?"))
            return bool(await served.texts())

        await eventually(listens)
        await served.ask("DELETE", "/inbox")
        yield served
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_was_sent_is_there_newest_last(served: Served) -> None:
    """With uuid, number, text and time."""
    served.tell(step(1), step(2, BERT, text="héllo €"))
    await eventually(lambda: served.texts())
    status, body = await served.ask("GET", "/inbox")
    assert status == 200
    assert body["messages"] == [
        {"uuid": "a-run.1", "to": ANNA, "text": "text 1", "sent_at": "2026-11-21T07:26:13.123457Z"},
        {"uuid": "a-run.2", "to": BERT, "text": "héllo €", "sent_at": "2026-11-21T07:26:13.123458Z"},
    ]


async def test_only_what_was_sent_and_once(served: Served) -> None:
    """Other steps leave nothing there, and neither does a step that is told twice."""
    served.tell(*(step(k, status=status) for k, status in enumerate(Status)))
    served.tell(step(7), step(7, text="told again"))
    await eventually(lambda: served.texts())
    assert await served.texts() == [f"text {list(Status).index(Status.SENT)}", "text 7"]


async def test_limit_gives_the_newest(served: Served) -> None:
    """So many, newest last; a filter counts first."""
    served.tell(*(step(k, ANNA if k % 2 else BERT) for k in range(10)))
    await eventually(lambda: served.texts())
    assert await served.texts("?limit=3") == ["text 7", "text 8", "text 9"]
    assert await served.texts(f"?limit=2&to={ANNA[1:]}") == ["text 7", "text 9"]


async def test_a_number_may_be_typed_raw(served: Served) -> None:
    """A + that is not percent-encoded arrives as a space, one left away not at all; spaces and dashes don't matter."""
    served.tell(step(1), step(2, BERT))
    await eventually(lambda: served.texts())
    for typed in (
        "%2B358401234567",
        "+358401234567",
        "358401234567",
        "+358%2040-123-4567",
        "%20358401234567",
        "00358401234567",
    ):
        assert await served.texts(f"?to={typed}") == ["text 1"]
        status, message = await served.ask("GET", f"/inbox/wait?to={typed}")
        assert (status, message["text"]) == (200, "text 1")


BAD_QUERIES = [
    ("GET", "/inbox?limit=0", "query.limit"),
    ("GET", "/inbox?limit=many", "query.limit"),
    ("GET", "/inbox?limit=10001", "query.limit"),
    ("GET", "/inbox?to=", "query.to"),
    ("GET", "/inbox?to=0401234567", "query.to"),
    ("GET", "/inbox?to=nobody", "query.to"),
    ("GET", "/inbox?number=1", "query.number"),
    ("DELETE", "/inbox?number=%2B358401234567", "query.number"),
    ("DELETE", "/inbox?to=", "query.to"),
    ("GET", "/inbox/wait", "query.to"),
    ("GET", "/inbox/wait?to=", "query.to"),
    ("GET", "/inbox/wait?to=%2B358401234567&timeout=61", "query.timeout"),
    ("GET", "/inbox/wait?to=%2B358401234567&timeout=-1", "query.timeout"),
    ("GET", "/inbox/wait?to=%2B358401234567&timeout=nan", "query.timeout"),
]


async def test_a_bad_query_changes_nothing(served: Served) -> None:
    """It is answered 422 that names the parameter and does not quote a number; a misspelt filter deletes nothing."""
    served.tell(step(1))
    await eventually(lambda: served.texts())
    for method, path, where in BAD_QUERIES:
        status, problem = await served.ask(method, path)
        assert (status, problem["errors"][0]["where"]) == (422, where), path
        assert "401234567" not in problem["detail"]
        assert await served.texts() == ["text 1"]


async def test_delete_empties_it_for_a_number_or_for_all(served: Served) -> None:
    """204 without a body, also when there is nothing to delete."""
    served.tell(step(1), step(2, BERT), step(3))
    await eventually(lambda: served.texts())
    assert await served.ask("DELETE", "/inbox?to=+358401234567") == (204, None)
    assert await served.texts() == ["text 2"]
    assert await served.ask("DELETE", "/inbox") == (204, None)
    assert await served.ask("DELETE", "/inbox") == (204, None)
    assert await served.texts() == []


async def test_wait_gives_the_oldest_and_takes_nothing_away(served: Served) -> None:
    """Asked again it gives the same; `after` goes on to the next, and to nothing at the end."""
    served.tell(step(1), step(2, BERT), step(3), step(4))
    await eventually(lambda: served.texts())
    assert [(await served.wait(f"to={ANNA}"))[1]["uuid"] for _ in range(2)] == ["a-run.1", "a-run.1"]
    assert (await served.wait(f"to={ANNA}&after=a-run.1"))[1]["uuid"] == "a-run.3"
    assert (await served.wait(f"to={ANNA}&after=a-run.2"))[1]["uuid"] == "a-run.3"
    assert (await served.wait(f"to={ANNA}&after=a-run.3"))[1]["uuid"] == "a-run.4"
    assert await served.wait(f"to={ANNA}&after=a-run.4&timeout=0") == (204, None)
    status, problem = await served.wait(f"to={ANNA}&after=a-run.5")
    assert (status, problem["errors"][0]["where"]) == (404, "query.after")


async def test_who_waits_hears_as_soon_as_it_comes(served: Served) -> None:
    """All who wait for the number get the message, those who wait for another one go on waiting."""
    served.tell(step(1))
    await eventually(lambda: served.texts())
    for_bert = [served.wait(f"to={BERT}&timeout=60") for _ in range(2)]
    next_of_anna = served.wait(f"to={ANNA}&timeout=60&after=a-run.1")
    await served.waiting(3)
    served.tell(step(2, BERT))
    assert [(await one)[1]["uuid"] for one in for_bert] == ["a-run.2"] * 2
    await served.waiting(1)
    assert not next_of_anna.done()
    served.tell(step(1), step(3, status=Status.FAILED), step(4))
    assert (await next_of_anna)[1]["uuid"] == "a-run.4"
    await served.waiting(0)


async def test_nothing_comes_in_time(served: Served) -> None:
    """204, at once with a timeout of 0, and nobody is left waiting."""
    assert await served.wait(f"to={ANNA}&timeout=0.05") == (204, None)
    assert await served.wait(f"to={ANNA}&timeout=0") == (204, None)
    assert served.inbox.waiting == 0


async def test_a_client_that_left_waits_no_more(served: Served) -> None:
    """Its place is free at once, not when its time is over, and the others hear their messages still."""
    leaves, stays = served.wait(f"to={ANNA}&timeout=60"), served.wait(f"to={ANNA}&timeout=60")
    await served.waiting(2)
    leaves.cancel()
    await served.waiting(1)
    served.tell(step(1))
    assert (await stays)[1]["uuid"] == "a-run.1"


async def test_so_many_wait_and_no_more() -> None:
    """One more is told to come back later; what is there already is had without waiting."""
    async with serve(waiters=2) as served:
        waiting = [served.wait(f"to={ANNA}&timeout=60") for _ in range(2)]
        await served.waiting(2)
        served.tell(step(1, BERT))
        await eventually(lambda: served.texts())
        assert (await served.wait(f"to={ANNA}&timeout=60"))[0] == 429
        assert (await served.wait(f"to={BERT}&timeout=60"))[0] == 200
        served.tell(step(2))
        assert [(await one)[0] for one in waiting] == [200, 200]


async def test_the_oldest_make_room() -> None:
    """It holds so many messages and no more, and says so of one that `after` names and is gone."""
    async with serve(messages=3) as served:
        served.tell(*(step(k) for k in range(5)))
        await eventually(lambda: served.texts())
        assert await served.texts() == ["text 2", "text 3", "text 4"]
        assert (await served.wait(f"to={ANNA}&after=a-run.0"))[0] == 404


async def test_when_it_takes_nothing_in_nobody_waits(served: Served) -> None:
    """Who waits, or would, is answered 503 at once; what is there can still be had."""
    served.tell(step(1, BERT))
    waiting = served.wait(f"to={ANNA}&timeout=60")
    await served.waiting(1)
    served.running.cancel()
    assert (await waiting)[0] == 503
    assert (await served.wait(f"to={ANNA}&timeout=60"))[0] == 503
    assert (await served.wait(f"to={BERT}"))[0] == 200


async def test_nobody_holds_up_the_end_of_the_gateway() -> None:
    """Who waits when it stops is answered 503 at once."""
    async with aiohttp.ClientSession() as session:
        async with running(stand_in=True, sends=False) as it:
            inbox = it.gateway.inbox
            assert inbox is not None
            url = f"{it.url}/inbox/wait?to={ANNA[1:]}&timeout=60"
            waiting = asyncio.create_task(session.get(url))
            await eventually(lambda: inbox.waiting == 1)
        assert (await waiting).status == 503


@pytest.mark.parametrize(("page_bytes", "messages"), [(500, 3), (1, 1)])
async def test_a_page_has_a_bounded_number_of_bytes(page_bytes: int, messages: int) -> None:
    """However many messages are asked for, long texts make it shorter; the newest ones are in it, one at least."""
    async with serve(page_bytes=page_bytes) as served:
        served.tell(*(step(k, text="€" * 20) for k in range(5)))
        await eventually(lambda: served.texts())
        _, body = await served.ask("GET", "/inbox?limit=100")
        assert [message["uuid"] for message in body["messages"]] == [f"a-run.{k}" for k in range(5)][
            -messages:
        ]


async def test_long_texts_leave_room_for_fewer_messages() -> None:
    """The inbox is bounded in bytes, too: the oldest make room, and what is cleared counts no longer."""
    tracker = MemoryTracker()
    inbox = Inbox(tracker, InboxLimits(text_bytes=50_000))
    for seq in range(100):
        inbox._receive(step(seq, text="🌞" * 1_600))
    assert [len(inbox._messages), inbox._text_bytes <= 50_000] == [7, True]
    assert inbox.first(ANNA, None) == inbox._messages["a-run.93"]
    inbox.clear(ANNA)
    assert inbox._text_bytes == 0
