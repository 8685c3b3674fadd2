"""What a gateway does at its edges: odd requests, parts that fail, simulated runs that are given up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from common.background import Timing, end, supervise
from common.broker.memory import MemoryBroker
from common.errors import Refused
from common.ledger.memory import MemoryLedger
from common.tracking.memory import MemoryTracker
from common.tracking.port import Step
from common.web import server
from common.web.keys.port import ALL_SCOPES, Caller
from common.web.problems import Problem
from gateway.api import simulated
from gateway.api.simulated import SimulatedRuns
from tests.gateway.running import NUMBER, running
from tests.waiting import eventually


@pytest.mark.parametrize(("method", "path"), [("POST", "/sms/"), ("GET", "/runs/"), ("GET", "/health/")])
async def test_no_redirect_to_a_host_that_the_client_named(method: str, path: str) -> None:
    """A slash too many is a path that is not served, and nothing else."""
    async with (
        running(sends=False, gateway_hosts="127.0.0.1,evil.example") as gateway,
        gateway.http.request(method, path, headers={"Host": "evil.example"}, allow_redirects=False) as answer,
    ):
        assert answer.status in (404, 405)
        assert answer.content_type == "application/problem+json"
        assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json; charset=utf-8; v=1", 202),
        ('Application/JSON;v=1;Charset="UTF-8"', 202),
        ("application/json;", 202),
        ("application/json; v=1; charset=latin-1", 415),
        ("text/plain; x=application/json", 415),
    ],
)
async def test_content_types_with_parameters(content_type: str, status: int) -> None:
    """Only the charset counts, wherever it stands."""
    async with running() as gateway:
        body = b'{"number": "%s", "text": "hello"}' % NUMBER.encode()
        seen, answer = await gateway.post("/sms", data=body, headers={"Content-Type": content_type})
        assert seen == status, answer


async def test_a_server_that_ends_at_once_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told that it serves."""

    async def startup(*_: object, **__: object) -> None:
        raise Refused("no")

    monkeypatch.setattr(server._Server, "startup", startup)
    with pytest.raises(Refused, match="no"):
        async with server.serving(Starlette(), "127.0.0.1", 0):
            pytest.fail("it does not serve")


class Failing:
    """Fails so often, then works."""

    def __init__(self, fails: int) -> None:
        self.fails, self.works = fails, False

    async def run(self) -> None:
        if self.fails:
            self.fails -= 1
            raise (Refused("no") if self.fails % 2 else ZeroDivisionError)
        self.works = True
        await asyncio.Event().wait()


async def test_a_part_that_fails_begins_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each failure is logged, and the part works in the end."""
    part = Failing(3)
    task = asyncio.create_task(supervise(part, Timing(first_pause_s=0.01)))
    await eventually(lambda: part.works)
    await end([task])
    assert task.cancelled()
    assert [record.message for record in caplog.records].count("part_failed") == 3


async def test_listeners_go_on_after_the_tracker_failed() -> None:
    """Who asked when it failed may be told so; later messages come in."""

    class Fails(MemoryTracker):
        failures = 2  # the hub listens, and the inbox

        def listen(self) -> AsyncIterator[list[Step]]:
            if self.failures:
                self.failures -= 1
                raise Refused("no")
            return super().listen()

    async with running(tracker=Fails(), stand_in=True) as gateway:

        async def came() -> Any:
            await gateway.send()
            status, answer = await gateway.get("/inbox/wait", params={"to": NUMBER, "timeout": "1"})
            return answer if status == 200 else None

        assert (await eventually(came))["to"] == NUMBER


async def _total(ledger: MemoryLedger, run: str) -> int:
    return (await ledger.snapshot(run)).total


async def test_a_lost_cancellation_is_repeated() -> None:
    """As redis-py may lose one: the gateway must end all the same."""

    async def deaf() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await end([task], Timing(cancel_again_s=0.01))
    assert task.cancelled()


AT_ONCE = 3


class Held(MemoryLedger):
    """Begins runs, and answers once it is told to; notes which it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()
        self.asked: list[str] = []
        self.refuses = False

    async def begin(self, run: str, recipe: str, total: int, producer: str) -> None:
        self.asked.append(run)
        if self.refuses:
            raise Refused("no")
        await super().begin(run, recipe, total, producer)
        await self.may_answer.wait()


class Endless:
    """A producer that never gets done."""

    def __init__(self, *_: object) -> None: ...

    async def publish(self, *_: object) -> None:
        await asyncio.Event().wait()


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Callable[[Held], Callable[[Any], Awaitable[Response]]]:
    """POST /runs on a ledger, with runs that are published for ever."""
    monkeypatch.setattr(simulated, "RunPublisher", Endless)

    def of(ledger: Held) -> Callable[[Any], Awaitable[Response]]:
        runs = SimulatedRuns(MemoryBroker(), ledger, "a-gateway", check_memory=lambda: None, at_once=AT_ONCE)
        return runs.operations()[0].handler

    return of


def request(body: bytes = b'{"num_messages": 1000}') -> Request:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"application/json")]
    it = Request({"type": "http", "method": "POST", "path": "/runs", "headers": headers}, receive)
    it.state.caller = Caller("anonymous", "anonymous", ALL_SCOPES)
    return it


Handlers = Callable[[Held], Callable[[Any], Awaitable[Response]]]


async def test_no_more_runs_at_once_than_there_are_places(handler: Handlers) -> None:
    """Requests that come while others wait for the ledger find their places taken."""
    ledger = Held()
    post = handler(ledger)
    asking = asyncio.gather(*(post(request()) for _ in range(20)), return_exceptions=True)
    await eventually(lambda: len(ledger.asked) >= AT_ONCE)
    ledger.may_answer.set()
    answers = await asking
    assert sum(isinstance(answer, Response) and answer.status_code == 202 for answer in answers) == AT_ONCE
    assert sum(isinstance(answer, Problem) and answer.status == 429 for answer in answers) == 20 - AT_ONCE


async def test_a_run_that_could_not_begin_gives_its_place_back(handler: Handlers) -> None:
    """A ledger that refuses takes no places, and the request hears of it."""
    ledger = Held()
    ledger.may_answer.set()
    ledger.refuses = True
    post = handler(ledger)
    for _ in range(2 * AT_ONCE):
        with pytest.raises(Refused):
            await post(request())
    ledger.refuses = False
    assert (await post(request())).status_code == 202


async def test_a_request_that_gave_up_leaves_no_run(handler: Handlers) -> None:
    """Its deadline passes while Redis is away: once that is back, the run is gone, and place and name are free."""
    ledger = Held()
    post = handler(ledger)
    asking = [
        asyncio.ensure_future(post(request(b'{"num_messages": 1000, "run": "run-%d"}' % k)))
        for k in range(AT_ONCE)
    ]
    await eventually(lambda: len(ledger.asked) == AT_ONCE)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    ledger.may_answer.set()

    async def place() -> bool:
        with contextlib.suppress(Problem):
            return (await post(request(b'{"num_messages": 1000, "run": "run-0"}'))).status_code == 202
        return False

    await eventually(place)
    assert await ledger.runs() == ["run-0"]
