"""Callbacks of messages in a batch: told of as single messages are, and never of what was not accepted."""

import asyncio
import json
import time
from typing import Any

import pytest

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.ledger.port import TIMING
from common.messages import Lane, Message
from common.tracking.memory import MemoryTracker
from gateway.acceptance import batch_intake, recovery
from gateway.acceptance.batch_intake import BatchIntake, BatchRun
from gateway.api import batch_body, batches
from gateway.callbacks import dispatcher as dispatching
from gateway.callbacks.dispatcher import Dispatcher
from tests.gateway.calling_back import ELSEWHERE, ON, SECRET, Away, Held, Noting, Odd, Receiver, batch, stores
from tests.gateway.running import NUMBER, Running, running
from tests.waiting import eventually


async def nothing_accepted(gateway: Running, callbacks: Noting) -> None:
    assert await gateway.ledger.runs() == []
    assert not callbacks.owed


@pytest.mark.parametrize("stand_in", [False, True])
@pytest.mark.parametrize("lines", [False, True], ids=["array", "lines"])
async def test_callbacks_tell_of_sent_and_failed(stand_in: bool, lines: bool) -> None:
    """Each message that has a callback is told of once, signed; the batch is tracked, though nobody asked for it."""
    callbacks = Noting()
    async with (
        Receiver().listening() as receiver,
        running(stand_in=stand_in, provider=Odd(), stores=stores(callbacks), **ON) as gateway,
    ):
        items = batch(6, receiver.url, without=[4])
        if lines:
            body = "".join(json.dumps(item) + "\n" for item in items).encode()
            headers = {"Content-Type": "application/x-ndjson"}
            status, answer = await gateway.post("/sms/batch", data=body, headers=headers)
        else:
            status, answer = await gateway.post("/sms/batch", items)
        assert status == 202, answer
        ids = answer["ids"]
        ends = [await gateway.ends(uuid) for uuid in ids]
        await eventually(lambda: not callbacks._kept, describe="all is delivered")
    assert [end["status"] for end in ends] == ["sent", "failed"] * 3
    assert [step["status"] for step in ends[4]["steps"]] == ["queued", "sending", "sent"]
    assert receiver.statuses() == {ids[k]: ends[k]["status"] for k in (0, 1, 2, 3, 5)}
    assert len(receiver.told) == 5
    for said in receiver.told:
        seen = ends[ids.index(said["uuid"])]
        assert (said["run"], said["number"], said["attempts"]) == (answer["run"], NUMBER, 1)
        assert said["at"] == seen["settled_at"]


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("ftp://example.org", "must begin with http"),
        ("", "must begin with http"),
        ("http://10.0.0.1/", "not public"),
        ("https://me@example.org/", "user name"),
    ],
)
async def test_bad_urls_are_named_and_nothing_is_accepted(url: str, what: str) -> None:
    """422 with the place of each, beside what else is wrong."""
    callbacks = Noting()
    async with running(stores=stores(callbacks), sends=False, callback_secret=SECRET) as gateway:
        items = batch(5)
        items[1]["number"] = "+1"
        items[3]["callback_url"] = items[4]["callback_url"] = url
        status, problem = await gateway.post("/sms/batch", items)
        assert status == 422
        assert [error["where"] for error in problem["errors"]] == [
            "body[1].number",
            "body[3].callback_url",
            "body[4].callback_url",
        ]
        assert what in problem["errors"][1]["what"]
        await nothing_accepted(gateway, callbacks)


async def test_a_url_of_no_text_is_refused() -> None:
    """By the schema: too long, or no string; null is none."""
    async with running(sends=False, **ON) as gateway:
        for url in ("https://example.org/" + "a" * 2_000, 7, ["https://example.org"]):
            items: list[dict[str, Any]] = [*batch(1), {**batch(1)[0], "callback_url": url}]
            status, problem = await gateway.post("/sms/batch", items)
            assert (status, problem["errors"][0]["where"]) == (422, "body[1].callback_url")
        assert (await gateway.post("/sms/batch", [{**batch(1)[0], "callback_url": None}]))[0] == 202


async def test_where_callbacks_are_off_they_are_refused() -> None:
    """Without CALLBACK_SECRET, which the answer names."""
    async with running(sends=False) as gateway:
        status, problem = await gateway.post("/sms/batch", batch(2, without=[0]))
        assert (status, problem["errors"][0]["where"]) == (422, "body[1].callback_url")
        assert "CALLBACK_SECRET" in problem["detail"]
        assert await gateway.ledger.runs() == []


@pytest.mark.parametrize("stand_in", [False, True])
async def test_they_need_tracking(stand_in: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many messages for it, or `track=false`: 422 with the place and what to do. The stand-in is no other."""
    monkeypatch.setattr(batch_body, "MAX_TRACKED_ITEMS", 3)
    monkeypatch.setattr(batches, "MAX_TRACKED_ITEMS", 3)
    callbacks = Noting()
    async with running(stand_in=stand_in, stores=stores(callbacks), sends=False, **ON) as gateway:
        for query in ("", "?track=true"):
            status, problem = await gateway.post(f"/sms/batch{query}", batch(4, without=[0, 1, 3]))
            assert (status, problem["errors"][0]["where"]) == (422, "body[2].callback_url")
            assert "up to 3 messages: send fewer at a time, or leave it out" in problem["detail"]
        status, problem = await gateway.post("/sms/batch?track=false", batch(3, without=[0]))
        assert (status, problem["errors"][0]["where"]) == (422, "query.track")
        assert "body[1]" in problem["detail"]
        await nothing_accepted(gateway, callbacks)
        assert (await gateway.post("/sms/batch?track=true", batch(3)))[0] == 202
        assert (await gateway.post("/sms/batch?track=false", batch(4, without=range(4))))[0] == 202
        assert len(callbacks.owed) == 3


@pytest.mark.parametrize("holds", [[], [0], [0, 500]])
async def test_a_withdrawn_batch_has_no_callbacks(holds: list[int]) -> None:
    """Whoever was answered 503 is not told later that messages have failed, whether the broker had them or not."""
    callbacks, broker = Noting(), Away(holds)
    broker.over.set()
    async with (
        Receiver().listening() as receiver,
        running(broker=broker, stores=stores(callbacks), sends=False, **ON) as gateway,
    ):
        assert (await gateway.post("/sms/batch", batch(700, receiver.url)))[0] == 503
        assert len(callbacks.owed) == 700
        assert sorted(callbacks.dropped) == sorted(callbacks.owed)
        (run,) = await gateway.ledger.runs()
        assert (await gateway.ledger.snapshot(run)).failed == 700
        assert not callbacks._kept
    assert not receiver.told


async def test_what_a_sender_had_taken_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker refuses while a sender has the first four in hand: 503 says so, and of those it is told later."""
    monkeypatch.setattr(batch_intake, "BATCH_SIZE", 4)
    callbacks, broker, provider = Noting(), Away(holds=[0]), Held()
    async with (
        Receiver().listening() as receiver,
        running(broker=broker, provider=provider, stores=stores(callbacks), **ON) as gateway,
    ):
        posting = asyncio.create_task(gateway.post("/sms/batch", batch(10, receiver.url)))
        await eventually(lambda: sum(sends.seqs.size for sends in provider.begun) == 4)
        broker.over.set()
        status, problem = await posting
        assert status == 503
        assert "4 of 10 messages" in problem["detail"]
        (run,) = await gateway.ledger.runs()
        assert set(callbacks.owed) == {f"{run}.{seq}" for seq in range(10)}
        assert not receiver.told
        provider.end_all()
        await eventually(lambda: not callbacks._kept, describe="nothing is owed any more")
    assert receiver.statuses() == {f"{run}.{seq}": "failed" if seq % 2 else "sent" for seq in range(4)}
    assert len(receiver.told) == 4


async def test_what_nobody_waits_for_has_no_callbacks() -> None:
    """A request that is over before the broker confirms: the batch is withdrawn, with what is owed of it."""
    ledger, tracker, callbacks, broker = MemoryLedger(), MemoryTracker(), Noting(), Away([0], confirms=True)
    dispatcher = Dispatcher(callbacks, tracker, ledger, SECRET, allow_private=True)
    intake = BatchIntake(broker, ledger, tracker, dispatcher, "a-gateway")
    messages = [Message(seq, NUMBER, "text") for seq in range(3)]
    urls = dict.fromkeys((0, 2), ELSEWHERE)
    accepting = asyncio.create_task(intake.accept(BatchRun("a-run", messages, Lane.BULK, True, urls)))
    await broker.asked.wait()
    accepting.cancel()
    await asyncio.gather(accepting, return_exceptions=True)
    assert intake.given_up == 1
    broker.over.set()
    await intake.close()
    assert callbacks.owed == callbacks.dropped == ["a-run.0", "a-run.2"]
    assert (await ledger.snapshot("a-run")).failed == 3


async def test_the_same_key_is_told_of_once() -> None:
    """A replay owes nothing anew, and delivers nothing again."""
    callbacks = Noting()
    headers = {"Idempotency-Key": "batch one"}
    async with (
        Receiver().listening() as receiver,
        running(stores=stores(callbacks), **ON) as gateway,
    ):
        first = await gateway.post("/sms/batch", batch(5, receiver.url), headers=headers)
        assert first[0] == 202
        await eventually(lambda: not callbacks._kept, describe="all is delivered")
        assert await gateway.post("/sms/batch", batch(5, receiver.url), headers=headers) == first
        assert len(callbacks.owed) == 5
        assert not callbacks._kept
    assert sorted(receiver.deliveries) == [f"{uuid}.sent" for uuid in first[1]["ids"]]


class Stopping(MemoryLedger):
    """A ledger whose gateway dies as it confirms a run, or announces it."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at
        self.reached = asyncio.Event()

    async def announce(self, run: str, first: int, n: int) -> None:
        await self._stop_at("announce")
        await super().announce(run, first, n)

    async def confirm(self, run: str, upto: int) -> None:
        await self._stop_at("confirm")
        await super().confirm(run, upto)

    async def _stop_at(self, step: str) -> None:
        if step == self.at:
            self.reached.set()
            await asyncio.Event().wait()


@pytest.mark.parametrize("at", ["announce", "confirm"])
async def test_another_gateway_tells_of_a_batch_whose_gateway_died(
    at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was owed before the publish is told by whoever finishes the run, once the messages are sent or failed."""
    monkeypatch.setattr(recovery, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(dispatching, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(dispatching, "SHORTEST_PAUSE_S", 0.02)
    ledger, broker, tracker, callbacks = Stopping(at), MemoryBroker(), MemoryTracker(), Noting()
    dispatcher = Dispatcher(callbacks, tracker, ledger, SECRET, allow_private=True)
    async with Receiver().listening() as receiver:
        messages = [Message(seq, NUMBER, str(seq)) for seq in range(6)]
        urls = dict.fromkeys((0, 1, 5), receiver.url)
        intake = BatchIntake(broker, ledger, tracker, dispatcher, "dead")
        dying = asyncio.create_task(intake.accept(BatchRun("a-run", messages, Lane.BULK, True, urls)))
        await ledger.reached.wait()
        for publishing in intake._publishing:
            publishing.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        ledger.at = ""
        ledger._runs["a-run"].producer_seen_us = time.time_ns() // 1000 - int(TIMING.producer_silence_s * 2e6)
        for kept in list(callbacks._kept):
            callbacks._look_at(kept, 0)  # the first look, which the dead gateway's hint would have hastened
        async with running(
            ledger=ledger,
            broker=broker,
            tracker=tracker,
            provider=Odd(),
            stores=stores(callbacks),
            **ON,
        ):
            await eventually(lambda: not callbacks._kept, describe="all is delivered")
    assert receiver.statuses() == {"a-run.0": "sent", "a-run.1": "failed", "a-run.5": "failed"}
    assert len(receiver.told) == 3
