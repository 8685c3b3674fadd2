"""Uploads of batches that come slowly, or all at once: others keep their room, and memory is bounded."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from common.web.bodies import Budget
from common.web.operations import Operation
from common.web.problems import Problem
from gateway.api import batch_body
from gateway.api.batches import MOST_AT_ONCE, Batches
from tests.gateway.running import NUMBER, Running, running
from tests.waiting import eventually

BATCH = [{"number": NUMBER, "text": "x"}]
HEAD = b"POST /sms/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


@pytest.fixture
def budgets(monkeypatch: pytest.MonkeyPatch) -> list[Budget]:
    """The budgets of all gateways of a test, each with room for 100 bytes."""
    made: list[Budget] = []

    def budget(_: int) -> Budget:
        made.append(Budget(100))
        return made[-1]

    monkeypatch.setattr("gateway.api.batches.Budget", budget)
    return made


@contextlib.asynccontextmanager
async def dribbling(it: Running, begins: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """A client that has sent the first of a thousand bytes, and nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
    writer.write(HEAD + begins)
    yield reader
    writer.transport.abort()


async def test_slow_uploads_keep_no_room_from_others(budgets: list[Budget]) -> None:
    """However many there are, others are served."""
    async with running(sends=False) as it, contextlib.AsyncExitStack() as clients:
        for _ in range(2 * MOST_AT_ONCE):
            await clients.enter_async_context(dribbling(it, b"["))
        await eventually(lambda: budgets[0].used_bytes == 2 * MOST_AT_ONCE)
        status, answer = await it.post("/sms/batch", BATCH)
        assert status == 202, answer


async def test_the_bytes_in_hand_are_bounded(budgets: list[Budget]) -> None:
    """Who brings too much is told to wait, until somebody else's are out of hand."""
    async with running(sends=False) as it:
        async with dribbling(it, b"[" + b" " * 89):
            await eventually(lambda: budgets[0].used_bytes == 90)
            async with it.http.post("/sms/batch", json=BATCH) as answer:
                assert answer.status == 429
                assert answer.headers["Retry-After"] == "1"
        await eventually(lambda: budgets[0].used_bytes == 0)
        assert (await it.post("/sms/batch", BATCH))[0] == 202
        assert budgets[0].used_bytes == 0


async def test_a_body_that_does_not_come_is_given_up(
    monkeypatch: pytest.MonkeyPatch, budgets: list[Budget]
) -> None:
    """408 says why, in time."""
    monkeypatch.setattr(batch_body, "READ_WITHIN_S", 0.05)
    async with running(sends=False) as it, dribbling(it, b"[") as reader:
        async with asyncio.timeout(60):
            assert b" 408 " in await reader.readline()
            assert b"did not come within 0.05 s" in await reader.read()
        assert budgets[0].used_bytes == 0


async def test_a_whole_batch_that_finds_no_slot_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its body came while others took the last one."""
    monkeypatch.setattr("gateway.api.batches.MOST_AT_ONCE", 1)
    slots: list[Batches] = []
    monkeypatch.setattr(Batches, "operations", _noting(slots))
    async with running(sends=False) as it:
        may_end = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b"["
            await may_end.wait()
            yield b'{"number": "%s", "text": "x"}]' % NUMBER.encode()

        async def post() -> int:
            headers = {"Content-Type": "application/json"}
            async with it.http.post("/sms/batch", data=body(), headers=headers) as answer:
                return answer.status

        posting = asyncio.create_task(post())
        await eventually(lambda: slots[0]._bodies.used_bytes == 1)
        with slots[0]._one_more():
            may_end.set()
            assert await posting == 429
            assert (await it.post("/sms/batch", BATCH))[0] == 429
        assert (await it.post("/sms/batch", BATCH))[0] == 202


def _noting(made: list[Batches]) -> Callable[[Batches], list[Operation]]:
    operations = Batches.operations

    def noting(self: Batches) -> list[Operation]:
        made.append(self)
        return operations(self)

    return noting


def test_a_budget_is_given_back_after_a_refusal() -> None:
    """All that the body had taken, and no more."""
    budget = Budget(10)
    with budget.share() as first:
        first(4)
        with budget.share() as second:
            second(6)
            with pytest.raises(Problem):
                second(1)
        assert budget.used_bytes == 4
    assert budget.used_bytes == 0
