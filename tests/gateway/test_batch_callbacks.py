"""Callbacks of messages in a batch: posted as those of single messages, and never without acceptance."""

import json
from typing import Any

import pytest

from common.messages import Lane, Message
from gateway.acceptance.port import NewRun
from gateway.api import batch_body, batches
from gateway.callbacks.limits import CallbackLimits
from gateway.callbacks.memory import MemoryCallbacks
from tests.gateway.accepting import Shared, world
from tests.gateway.calling_back import ON, Odd, batch
from tests.gateway.running import NUMBER, Running, running
from tests.receiver import SECRET, Receiver
from tests.waiting import eventually


async def nothing_accepted(gateway: Running, callbacks: MemoryCallbacks) -> None:
    assert await gateway.ledger.runs() == []
    assert not callbacks._entries


async def delivered(callbacks: MemoryCallbacks) -> None:
    await eventually(lambda: not callbacks._entries, describe="all callbacks are delivered")


@pytest.mark.parametrize("stand_in", [False, True])
@pytest.mark.parametrize("lines", [False, True], ids=["array", "lines"])
async def test_callbacks_of_sent_and_failed_messages(stand_in: bool, lines: bool) -> None:
    """Each message with a callback gets one, signed. The batch is tracked without being asked to."""
    callbacks = MemoryCallbacks()
    async with (
        Receiver().listening() as receiver,
        running(stand_in=stand_in, provider=Odd(), callbacks=callbacks, **ON) as gateway,
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
        await delivered(callbacks)
    assert [end["status"] for end in ends] == ["sent", "failed"] * 3
    assert [step["status"] for step in ends[4]["steps"]] == ["queued", "sending", "sent"]
    assert receiver.statuses == {ids[k]: ends[k]["status"] for k in (0, 1, 2, 3, 5)}
    assert len(receiver.requests) == 5
    for said in (request.body for request in receiver.requests):
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
    """422 names the place of each, and the other errors."""
    callbacks = MemoryCallbacks()
    async with running(callbacks=callbacks, sends=False, callback_secret=SECRET) as gateway:
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


async def test_urls_against_the_schema() -> None:
    """The schema refuses URLs that are too long or not a string; null means no callback."""
    async with running(sends=False, **ON) as gateway:
        for url in ("https://example.org/" + "a" * 2_000, 7, ["https://example.org"]):
            items: list[dict[str, Any]] = [*batch(1), {**batch(1)[0], "callback_url": url}]
            status, problem = await gateway.post("/sms/batch", items)
            assert (status, problem["errors"][0]["where"]) == (422, "body[1].callback_url")
        assert (await gateway.post("/sms/batch", [{**batch(1)[0], "callback_url": None}]))[0] == 202


async def test_callbacks_without_a_secret_are_refused() -> None:
    """The answer names CALLBACK_SECRET."""
    async with running(sends=False) as gateway:
        status, problem = await gateway.post("/sms/batch", batch(2, without=[0]))
        assert (status, problem["errors"][0]["where"]) == (422, "body[1].callback_url")
        assert "CALLBACK_SECRET" in problem["detail"]
        assert await gateway.ledger.runs() == []


@pytest.mark.parametrize("stand_in", [False, True])
async def test_callbacks_need_tracking(stand_in: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """422 for too many messages and for `track=false` names the place and what to do, in the stand-in as well."""
    monkeypatch.setattr(batch_body, "MAX_TRACKED_ITEMS", 3)
    monkeypatch.setattr(batches, "MAX_TRACKED_ITEMS", 3)
    callbacks = MemoryCallbacks()
    async with running(stand_in=stand_in, callbacks=callbacks, sends=False, **ON) as gateway:
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
        assert len(callbacks._entries) == 3


async def test_a_replayed_key_registers_nothing() -> None:
    """Each callback is posted once."""
    callbacks = MemoryCallbacks()
    headers = {"Idempotency-Key": "batch one"}
    async with (
        Receiver().listening() as receiver,
        running(callbacks=callbacks, **ON) as gateway,
    ):
        first = await gateway.post("/sms/batch", batch(5, receiver.url), headers=headers)
        assert first[0] == 202
        await delivered(callbacks)
        assert await gateway.post("/sms/batch", batch(5, receiver.url), headers=headers) == first
        assert not callbacks._entries
    assert receiver.uuids == sorted(first[1]["ids"])


async def test_another_gateway_delivers_for_a_dead_one() -> None:
    """A callback is registered with the acceptance: it is posted though the gateway died before it published."""
    shared = Shared()
    async with Receiver().listening() as receiver:
        run = NewRun(
            run="a-run",
            messages=[Message(seq, NUMBER, str(seq)) for seq in range(6)],
            lane=Lane.BULK,
            track=True,
            accepted_us=7,
            callback_urls=dict.fromkeys((0, 1, 5), receiver.url),
        )
        await shared.store.accept_run(run)
        shared.now_s += 60
        limits = CallbackLimits(poll_s=0.02)
        async with world(shared, provider=Odd(), callback_limits=limits, **ON) as it:
            await eventually(lambda: all_settled(it.gateway))
            shared.now_s += 600
            await delivered(shared.callbacks)
    assert receiver.statuses == {"a-run.0": "sent", "a-run.1": "failed", "a-run.5": "failed"}
    assert len(receiver.requests) == 3


async def all_settled(gateway: Running) -> bool:
    snapshot = await gateway.ledger.snapshot("a-run")
    return snapshot.sent + snapshot.failed == 6
