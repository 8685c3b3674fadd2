"""Callbacks of messages in a batch: told of as single messages are, and never of what was not accepted."""

import json
from typing import Any

import pytest

from common.messages import Lane, Message
from gateway.acceptance.port import NewRun
from gateway.api import batch_body, batches
from gateway.callbacks import dispatcher as dispatching
from tests.gateway.accepting import Shared, world
from tests.gateway.calling_back import ON, SECRET, Noting, Odd, Receiver, batch
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
        assert len(callbacks.owed) == 3


async def test_the_same_key_is_told_of_once() -> None:
    """A replay owes nothing anew, and delivers nothing again."""
    callbacks = Noting()
    headers = {"Idempotency-Key": "batch one"}
    async with (
        Receiver().listening() as receiver,
        running(callbacks=callbacks, **ON) as gateway,
    ):
        first = await gateway.post("/sms/batch", batch(5, receiver.url), headers=headers)
        assert first[0] == 202
        await eventually(lambda: not callbacks._kept, describe="all is delivered")
        assert await gateway.post("/sms/batch", batch(5, receiver.url), headers=headers) == first
        assert len(callbacks.owed) == 5
        assert not callbacks._kept
    assert sorted(receiver.deliveries) == [f"{uuid}.sent" for uuid in first[1]["ids"]]


async def test_another_gateway_tells_of_a_batch_whose_gateway_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback is owed with the acceptance, so that it is told though the gateway died before it published."""
    monkeypatch.setattr(dispatching, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(dispatching, "SHORTEST_PAUSE_S", 0.02)
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
        for owed in list(shared.callbacks._kept):
            shared.callbacks._look_at(owed, 0)  # the dead gateway would have heard of the ends
        async with world(shared, provider=Odd(), **ON):
            await eventually(lambda: not shared.callbacks._kept, describe="all is delivered")
    assert receiver.statuses() == {"a-run.0": "sent", "a-run.1": "failed", "a-run.5": "failed"}
    assert len(receiver.told) == 3
