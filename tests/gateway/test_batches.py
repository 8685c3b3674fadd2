"""POST /sms/batch and POST /runs: all of a batch or none of it, as a run of its own."""

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from common.broker.memory import MemoryBroker
from common.errors import PublishFailed, Refused, RunBusy
from common.ledger.memory import MemoryLedger
from common.ledger.values import Publication
from common.messages import Batch, Lane, Message, State
from common.publishing.recipes import BATCHES, SINGLES
from common.tracking.memory import MemoryTracker
from gateway.acceptance import batch_intake, groups, recovery
from gateway.acceptance.recovery import Recovery
from gateway.acceptance.session import recipe
from gateway.api import batch_body, batches
from gateway.idempotency.memory import MemoryIdempotency
from tests.gateway.running import NUMBER, Running, running
from tests.waiting import eventually

NDJSON = {"Content-Type": "application/x-ndjson"}
GOOD = b'[{"number": "+541166587382", "text": "hello"}]'


def items(messages: int) -> list[dict[str, str]]:
    return [{"number": f"+5411665{k:05}", "text": f"text {k}"} for k in range(messages)]


def lines(of: list[dict[str, str]]) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in of)


class Breaking(MemoryBroker):
    """A broker that confirms so many batches, and then none."""

    confirms = 1

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        if self.confirms > 0:
            self.confirms -= 1
            return super().publish(batch, lane, after)
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.set_exception(PublishFailed("the connection is lost"))
        return lost


async def over(gateway: Running, run: str, messages: int) -> Any:
    async def settled() -> Any:
        snapshot = await gateway.ledger.snapshot(run)
        return snapshot if snapshot.settled == messages else None

    return await eventually(settled)


@pytest.mark.parametrize("form", ["array", "lines", "lines in pieces"])
async def test_a_batch_is_a_run_of_its_own(form: str) -> None:
    """Array or NDJSON, in one piece or many: every message is sent, its id is in its place and leads to its text."""
    async with running() as gateway:
        wanted = items(1_203)
        if form == "array":
            status, answer = await gateway.post("/sms/batch", wanted)
        else:
            body = lines(wanted)
            cut = [body[i : i + 777] for i in range(0, len(body), 777)] if "pieces" in form else [body]

            async def stream() -> Any:
                for piece in cut:
                    yield piece

            status, answer = await gateway.post("/sms/batch", data=stream(), headers=NDJSON)
        assert status == 202, answer
        run = answer["run"]
        assert answer["count"] == answer["segments"] == 1_203
        assert answer["ids"] == [f"{run}.{seq}" for seq in range(1_203)]
        snapshot = await over(gateway, run, 1_203)
        assert (snapshot.sent, snapshot.total) == (1_203, 1_203)
        _, seen = await gateway.get(f"/sms/{answer['ids'][1_100]}")
        assert (seen["number"], seen["text"], seen["status"]) == (
            wanted[1_100]["number"],
            "text 1100",
            "sent",
        )
        assert seen["steps"] == []
        assert (await gateway.get(f"/sms/{run}.1203"))[0] == 404


async def test_a_tracked_batch_has_steps() -> None:
    """`?track=true`: each message has its times, as single ones have."""
    async with running() as gateway:
        status, answer = await gateway.post("/sms/batch?track=true", items(3))
        assert status == 202
        seen = await gateway.ends(answer["ids"][2])
        assert [step["status"] for step in seen["steps"]] == ["queued", "sending", "sent"]


@pytest.mark.parametrize(
    ("path", "body", "status", "where"),
    [
        ("", b"[]", 422, "body"),
        ("", b"{}", 422, "body"),
        ("", b'[{"number": "+541166587382", "text": "hello"}, {"number": "+1"}]', 422, "body[1].number"),
        (
            "",
            b'[{"number": "+541166587382", "text": "hello"}, {"number": "+1", "text": "a"}]',
            422,
            "body[1].number",
        ),
        ("", b'[{"number": "+541166587382", "text": "hello"', 400, "body"),
        ("?track=maybe", GOOD, 422, "query.track"),
        ("?track=true&track=false", GOOD, 422, "query.track"),
        ("?priority=urgent&priority=urgent", GOOD, 422, "query.priority"),
        ("?priority=low", GOOD, 422, "query.priority"),
    ],
)
async def test_one_bad_message_refuses_all(path: str, body: bytes, status: int, where: str) -> None:
    """The problem names the place, and nothing is published."""
    async with running(sends=False) as gateway:
        headers = {"Content-Type": "application/json"}
        answered, problem = await gateway.post(f"/sms/batch{path}", data=body, headers=headers)
        assert (answered, problem["errors"][0]["where"]) == (status, where)
        assert await gateway.ledger.runs() == []


async def test_a_bad_line_is_named() -> None:
    """NDJSON: the message is named by its place among the messages, blank lines left out."""
    async with running(sends=False) as gateway:
        body = lines(items(2)) + b'\n\n{"number": 1}\n'
        status, problem = await gateway.post("/sms/batch", data=body, headers=NDJSON)
        assert (status, problem["errors"][0]["where"]) == (422, "body[2].number")
        status, problem = await gateway.post("/sms/batch", data=b'{"number"\n', headers=NDJSON)
        assert (status, problem["errors"][0]["where"]) == (400, "body[0]")


async def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """More messages than allowed, or bytes: 413; more than may be tracked: 422."""
    monkeypatch.setattr(batch_body, "MAX_BATCH_ITEMS", 5)
    monkeypatch.setattr(batches, "MAX_TRACKED_ITEMS", 2)
    monkeypatch.setattr(batch_body, "LARGE_BYTES", 10_000)
    async with running(sends=False) as gateway:
        assert (await gateway.post("/sms/batch", items(6)))[0] == 413
        assert (await gateway.post("/sms/batch", [*items(5), {}]))[0] == 413
        assert (await gateway.post("/sms/batch", data=lines(items(6)), headers=NDJSON))[0] == 413
        assert (await gateway.post("/sms/batch", data=b" " * 10_001, headers=NDJSON))[0] == 413
        assert (await gateway.post("/sms/batch?track=true", items(3)))[0] == 422
        assert (await gateway.post("/sms/batch", items(5)))[0] == 202


async def test_a_broken_batch_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker goes away in the middle: 503, and what it had confirmed is not sent either."""
    monkeypatch.setattr(batch_intake, "PUBLISH_WITHIN_S", 0.1)
    async with running(broker=Breaking(), sends=False) as gateway:
        async with gateway.http.post("/sms/batch", json=items(1_200)) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) >= 1
        (run,) = await gateway.ledger.runs()
        snapshot = await gateway.ledger.snapshot(run)
        assert (snapshot.failed, snapshot.queued, snapshot.sending) == (1_200, 0, 0)
        assert not (await gateway.ledger.publication(run)).publishing


async def test_the_same_key_gives_the_same_run_once() -> None:
    """The second answer is the first one, ids and all, and no second run begins."""
    headers = {"Idempotency-Key": "batch one"}
    async with running() as gateway:
        first = await gateway.post("/sms/batch", items(10), headers=headers)
        assert first[0] == 202
        assert await gateway.post("/sms/batch", items(10), headers=headers) == first
        assert (await gateway.post("/sms/batch", items(11), headers=headers))[0] == 422
        assert await gateway.ledger.runs() == [first[1]["run"]]


async def test_a_simulated_run_is_sent() -> None:
    """POST /runs publishes so many messages under its name; the name can't be had twice."""
    async with running() as gateway:
        status, answer = await gateway.post("/runs", {"num_messages": 500, "run": "drill"})
        assert (status, answer) == (202, {"run": "drill", "num_messages": 500})
        await over(gateway, "drill", 500)
        assert (await gateway.post("/runs", {"num_messages": 5, "run": "drill"}))[0] == 409
        assert (await gateway.post("/runs", {"num_messages": 0}))[0] == 422


async def _broken_off(source: str, texts_kept: int, confirmed: int) -> tuple[MemoryLedger, MemoryTracker]:
    """A run of 30 announced messages of a batch of 40, whose gateway died long ago."""
    ledger, tracker = MemoryLedger(), MemoryTracker()
    total = 40 if source == BATCHES else 0
    await ledger.begin("broken", recipe(source, total), total, "gone")
    await ledger.announce("broken", 0, 30)
    await ledger.confirm("broken", confirmed)
    await tracker.keep("broken", [Message(seq, NUMBER, f"text {seq}") for seq in range(texts_kept)])
    await ledger.leave("broken", "gone")
    return ledger, tracker


@pytest.mark.parametrize(
    ("source", "kept", "published", "failed"),
    [
        (SINGLES, 40, 30, 0),  # what was announced was taken in; more is nobody's
        (SINGLES, 25, 30, 5),  # what is forgotten can't be sent
        (BATCHES, 40, 40, 0),  # a batch is finished whole
        (BATCHES, 35, 30, 0),  # its texts were not all kept: nothing of the rest was published
    ],
)
async def test_a_run_that_broke_off_is_finished(
    source: str, kept: int, published: int, failed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another gateway publishes what was never confirmed, and the run ends: nothing queued for good."""
    monkeypatch.setattr(recovery, "LOOK_EVERY_S", 0.05)
    ledger, tracker = await _broken_off(source, kept, confirmed=10)
    broker = MemoryBroker()
    # What was confirmed was in the queue.
    messages = [Message(seq, NUMBER, f"text {seq}") for seq in range(10)]
    await broker.publish(Batch(run="broken", messages=messages), Lane.BULK)
    async with running(broker=broker, ledger=ledger, tracker=tracker) as gateway:
        snapshot = await over(gateway, "broken", published)
        assert (snapshot.failed, snapshot.total) == (failed, published)


async def test_a_run_whose_gateway_lives_is_left_alone() -> None:
    """Another gateway keeps its hands off what a living one publishes."""
    ledger, tracker = MemoryLedger(), MemoryTracker()
    await ledger.begin("alive", recipe(SINGLES, 0), 0, "another")
    await ledger.announce("alive", 0, 5)
    await tracker.keep("alive", [Message(seq, NUMBER, "text") for seq in range(5)])
    async with running(ledger=ledger, tracker=tracker, sends=False) as gateway:
        finisher = Recovery(gateway.broker, ledger, tracker, "me")
        with pytest.raises(RunBusy):
            await finisher.finish("alive")
        assert (await ledger.states("alive", np.arange(5))).tolist() == [State.QUEUED] * 5
        assert sum((await gateway.broker.depths()).values()) == 0


class Looked(MemoryLedger):
    """A ledger that counts how often somebody asked for the publication of a run."""

    looks = 0

    async def publication(self, run: str) -> Publication:
        self.looks += 1
        return await super().publication(run)


async def test_a_gateway_leaves_its_own_session_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recovery looks at its own run again and again, and that stays open for the next message."""
    monkeypatch.setattr(recovery, "LOOK_EVERY_S", 0.01)
    ledger = Looked()
    async with running(ledger=ledger) as gateway:
        first = await gateway.send()
        await gateway.ends(first["uuid"])
        seen = ledger.looks
        await eventually(lambda: ledger.looks >= seen + 5, describe="recovery has looked")
        second = await gateway.send()
        run = first["uuid"].partition(".")[0]
        assert second["uuid"] == f"{run}.1"
        assert (await ledger.snapshot(run)).total == 0
        assert (await ledger.publication(run)).publishing


class Refuses(MemoryBroker):
    """A broker that refuses the third batch."""

    published = 0

    def publish(self, batch: Batch, lane: Lane, after: float = 0) -> "asyncio.Future[None]":
        self.published += 1
        if self.published != 3:
            return super().publish(batch, lane, after)
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        refused.set_exception(Refused("RabbitMQ refuses"))
        return refused


async def test_a_batch_that_is_refused_in_the_middle_is_not_sent_later() -> None:
    """503; and no gateway finishes the run afterwards."""
    ledger, broker = MemoryLedger(), Refuses()
    async with running(broker=broker, ledger=ledger, sends=False) as gateway:
        assert (await gateway.post("/sms/batch", items(2_000)))[0] == 503
        (run,) = await ledger.runs()
        before = broker.published
        ledger._runs[run].producer_seen_us = 0
        await Recovery(broker, ledger, gateway.tracker, "another").finish(run)
        assert broker.published == before
        assert (await ledger.snapshot(run)).queued == 0


async def _left_by_a_dead_gateway(gateway: Running, uuid: str, headers: dict[str, str]) -> None:
    """Makes the record of a key look as if its gateway had died before it answered, with another message planned."""
    assert (await gateway.post("/sms", {"number": NUMBER, "text": "hello"}, headers=headers))[0] == 202
    idempotency = gateway.stores.idempotency
    assert isinstance(idempotency, MemoryIdempotency)
    (entry,) = idempotency._entries.values()
    assert entry.answer is not None
    entry.answer = json.dumps({**json.loads(entry.answer), "uuid": uuid}).encode()
    entry.done, entry.until_s = False, 0


async def test_a_plan_that_cannot_be_carried_out_now_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway died, then RabbitMQ is away: 503; later the key still gives the planned message, and only that."""
    broker, headers = Breaking(), {"Idempotency-Key": "one"}
    broker.confirms = 10
    async with running(broker=broker) as gateway:
        await gateway.ledger.begin("dead", recipe(SINGLES, 0), 0, "dead")
        await gateway.ledger.announce("dead", 0, 1)
        await _left_by_a_dead_gateway(gateway, "dead.0", headers)
        broker.confirms = 0
        body = {"number": NUMBER, "text": "hello"}
        with monkeypatch.context() as patched:
            patched.setattr(groups, "TRY_FOR_S", 0.05)
            assert (await gateway.post("/sms", body, headers=headers))[0] == 503
        broker.confirms = 10
        status, answer = await gateway.post("/sms", body, headers=headers)
        assert (status, answer["uuid"]) == (202, "dead.0")
        assert (await gateway.ends("dead.0"))["status"] == "sent"
        assert (await gateway.ledger.snapshot()).published == 2


async def test_a_plan_that_was_never_announced_is_made_anew() -> None:
    """The gateway died between the plan and the announcement: the key gives a new message."""
    headers = {"Idempotency-Key": "one"}
    async with running() as gateway:
        await gateway.ledger.begin("dead", recipe(SINGLES, 0), 0, "dead")
        await _left_by_a_dead_gateway(gateway, "dead.0", headers)
        status, answer = await gateway.post("/sms", {"number": NUMBER, "text": "hello"}, headers=headers)
        assert status == 202
        assert answer["uuid"] != "dead.0"
        assert (await gateway.ends(answer["uuid"]))["status"] == "sent"
