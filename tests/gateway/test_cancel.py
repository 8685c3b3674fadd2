"""DELETE /sms/{uuid} and POST /runs/{run}/cancel: what is queued becomes canceled, the rest goes on."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from common.cancel import Cancellation
from common.errors import LedgerLost
from common.ledger.memory import MemoryLedger
from common.ledger.pieces import PIECE_MESSAGES
from common.ledger.values import Outcomes
from common.messages import Outcome, State
from common.tracking.memory import MemoryTracker
from common.tracking.port import Record
from tests.gateway.accepting import Away, world
from tests.gateway.calling_back import ON, Odd
from tests.gateway.running import NUMBER, Running, running
from tests.receiver import Receiver
from tests.waiting import eventually

KEY = {"Idempotency-Key": "one"}


async def cancel(gateway: Running, path: str) -> tuple[int, Any]:
    method = "DELETE" if path.startswith("/sms") else "POST"
    async with gateway.http.request(method, path) as answer:
        return answer.status, await answer.json(content_type=None)


async def is_settled(gateway: Running, messages: int) -> bool:
    now = await gateway.ledger.snapshot()
    return now.settled == now.published == messages


async def test_a_queued_message_is_canceled_and_never_sent() -> None:
    """Its status is canceled for good, its step is told once, and a sender that meets it skips it."""
    broker = Away()
    async with world(broker=broker) as it:
        canceled, other = await it.gateway.send(), await it.gateway.send()
        path = f"/sms/{canceled['uuid']}"
        counts = {"canceled": 1, "sending": 0, "sent": 0, "failed": 0}
        for _ in range(2):
            assert await cancel(it.gateway, path) == (
                200,
                {"uuid": canceled["uuid"], "status": "canceled", **counts},
            )
        broker.away = False
        await it.gateway.ends(other["uuid"])
        await eventually(lambda: is_settled(it.gateway, 2))
        status, seen = await it.gateway.get(path)
        assert (status, seen["status"], seen["attempts"]) == (200, "canceled", 0)
        assert [step["status"] for step in seen["steps"]] == ["queued", "canceled"]
        assert seen["settled_at"] == seen["steps"][1]["at"]
        now = await it.gateway.ledger.snapshot()
        assert (now.sent, now.failed, now.canceled) == (1, 1, 1)


async def test_what_is_sending_or_settled_stays() -> None:
    """The answer has its status and counts it there; nothing changes."""
    async with running(sends=False) as gateway:
        ids = [(await gateway.send())["uuid"] for _ in range(3)]
        run = ids[0].partition(".")[0]
        await gateway.ledger.claim(run, np.arange(3), False)
        outcomes = np.array([Outcome.SENT, Outcome.FAILED], np.uint8)
        await gateway.ledger.settle(run, Outcomes(np.arange(2), outcomes, np.ones(2, np.int64)))
        before = await gateway.ledger.recount(run)
        for uuid, status in zip(ids, ("sent", "failed", "sending"), strict=True):
            expected = {"canceled": 0, "sending": 0, "sent": 0, "failed": 0, status: 1}
            answer = {"uuid": uuid, "status": status, **expected}
            assert await cancel(gateway, f"/sms/{uuid}") == (200, answer)
        assert await gateway.ledger.recount(run) == before


async def test_a_run_is_canceled_and_closed() -> None:
    """All that is queued of it; a producer that goes on is refused, and the run is over once the rest has ended."""
    async with running(sends=False) as gateway:
        await gateway.ledger.begin("drill", "", 40, "a-producer")
        await gateway.ledger.announce("drill", 0, 30)
        await gateway.ledger.claim("drill", np.arange(5), False)
        counts = {"canceled": 25, "sending": 5, "sent": 0, "failed": 0}
        for _ in range(2):
            assert await cancel(gateway, "/runs/drill/cancel") == (200, {"run": "drill", **counts})
        with pytest.raises(LedgerLost):
            await gateway.ledger.announce("drill", 30, 10)
        sent = np.full(5, Outcome.SENT, np.uint8)
        await gateway.ledger.settle("drill", Outcomes(np.arange(5), sent, np.ones(5, np.int64)))
        _, view = await gateway.get("/runs/drill")
        assert (view["over"], view["total"], view["canceled"], view["failed"], view["sent"]) == (
            True,
            30,
            25,
            25,
            5,
        )


async def test_a_gateways_open_run_is_canceled_and_another_begins() -> None:
    """Its key gives the canceled message still; the next message goes into another run, and is sent."""
    broker = Away()
    async with world(broker=broker) as it:
        _, first = await it.gateway.post("/sms", {"number": NUMBER, "text": "a"}, headers=KEY)
        run = first["uuid"].partition(".")[0]
        status, answer = await cancel(it.gateway, f"/runs/{run}/cancel")
        assert (status, answer["canceled"]) == (200, 1)
        second = await it.gateway.send()
        assert second["uuid"].partition(".")[0] != run
        broker.away = False
        assert (await it.gateway.ends(second["uuid"]))["status"] == "sent"
        _, again = await it.gateway.post("/sms", {"number": NUMBER, "text": "a"}, headers=KEY)
        assert again["uuid"] == first["uuid"]
        await eventually(lambda: _is_empty(it.shared.store))
        assert (await it.gateway.ledger.states(run, np.arange(1))).tolist() == [State.FAILED]


async def _is_empty(store: Any) -> bool:
    return bool(await store.backlog() == (0, 0))


async def test_a_canceled_message_is_told_by_callback() -> None:
    """Its status there is `canceled`, with no attempts; of the others it is told as usual."""
    broker = Away()
    async with Receiver().listening() as receiver, world(broker=broker, provider=Odd(), **ON) as it:
        body = [{"number": NUMBER, "text": "a", "callback_url": receiver.url}] * 2
        _, answer = await it.gateway.post("/sms/batch", body)
        await cancel(it.gateway, f"/sms/{answer['ids'][0]}")
        broker.away = False
        await eventually(lambda: len(receiver.requests) == 2)
        assert receiver.statuses == {answer["ids"][0]: "canceled", answer["ids"][1]: "failed"}
        told = next(it.body for it in receiver.requests if it.body["status"] == "canceled")
        assert (told["attempts"], bool(told["at"])) == (0, True)


async def test_a_cancellation_is_an_event() -> None:
    """Whoever listens for canceled messages hears of it."""
    async with running(sends=False) as gateway:
        uuid = (await gateway.send())["uuid"]
        async with gateway.http.ws_connect("/events?status=canceled") as socket:
            await asyncio.sleep(0)
            await cancel(gateway, f"/sms/{uuid}")
            seen = [event for event in await socket.receive_json() if event["type"] == "message"]
            while not seen:
                seen = [event for event in await socket.receive_json() if event["type"] == "message"]
        assert [(event["uuid"], event["status"]) for event in seen] == [(uuid, "canceled")]


@pytest.mark.parametrize(
    "path", ["/sms/nonsense", "/sms/unknown.0", "/runs/unknown/cancel", "/runs/NO/cancel"]
)
async def test_what_is_unknown_is_not_found(path: str) -> None:
    """Neither a malformed id nor an unknown run can be canceled; nor a message that was not accepted yet."""
    async with running(sends=False) as gateway:
        run, _, seq = (await gateway.send())["uuid"].partition(".")
        assert (await cancel(gateway, path))[0] == 404
        assert (await cancel(gateway, f"/sms/{run}.{int(seq) + 1}"))[0] == 404
        assert (await gateway.ledger.snapshot()).published == 1


async def test_all_of_a_run_is_canceled_before_any_of_it_is_told() -> None:
    """To tell takes longer, and senders go on meanwhile."""
    ledger, tracker = MemoryLedger(), MemoryTracker()
    messages = PIECE_MESSAGES + 1
    await ledger.begin("a-run", "{}", messages, "a producer")
    await ledger.announce("a-run", 0, messages)
    canceled_at_first: list[int] = []

    async def records(run: str, seqs: Sequence[int]) -> list[Record | None]:
        canceled_at_first.append((await ledger.snapshot(run)).canceled)
        return [None for _ in seqs]

    tracker.records = records  # type: ignore[method-assign]
    counts = await Cancellation(ledger, tracker).cancel_run("a-run")
    assert (counts.canceled, canceled_at_first) == (messages, [messages])
