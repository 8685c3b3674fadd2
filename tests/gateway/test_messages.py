"""POST /sms and GET /sms/{uuid}: what is accepted is kept, what is refused says why, and is never sent."""

import asyncio
from typing import Any

import pytest

from gateway.acceptance.limits import AcceptanceLimits
from tests.gateway.accepting import QUICK_RELAYS as QUICK
from tests.gateway.accepting import Away, world
from tests.gateway.running import NUMBER, Running, running
from tests.waiting import eventually

SMS = {"number": NUMBER, "text": "hello"}


async def test_a_message_goes_all_the_way() -> None:
    """202 with id, number in E.164 form, text and segments; then sent, with the time of each step in order."""
    async with running() as gateway:
        accepted = await gateway.send("+54 11 6658-7382", "hello")
        assert accepted == {
            "uuid": accepted["uuid"],
            "number": NUMBER,
            "text": "hello",
            "status": "queued",
            "segments": {"encoding": "GSM-7", "segments": 1, "units": 5},
        }
        seen = await gateway.ends(accepted["uuid"])
        assert (seen["status"], seen["number"], seen["text"], seen["attempts"]) == (
            "sent",
            NUMBER,
            "hello",
            1,
        )
        assert [step["status"] for step in seen["steps"]] == ["queued", "sending", "sent"]
        assert seen["accepted_at"] <= seen["sending_at"] <= seen["settled_at"]
        assert await gateway.get(f"/key/{accepted['uuid']}") == (200, seen)


async def test_a_message_that_fails_says_so_and_retries_show() -> None:
    """Every send fails: two attempts, a retry between them, then failed."""
    async with running(failure_rate=1.0, max_attempts=2, retry_backoff=0.001) as gateway:
        seen = await gateway.ends((await gateway.send())["uuid"])
        assert seen["status"] == "failed"
        assert seen["attempts"] == 2
        steps = [(step["status"], step["attempt"]) for step in seen["steps"]]
        assert steps == [("queued", 0), ("sending", 1), ("queued", 1), ("sending", 2), ("failed", 2)]


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        ({"text": "hello"}, 422, "body.number"),
        ({"number": NUMBER}, 422, "body.text"),
        ({"number": NUMBER, "text": ""}, 422, "body.text"),
        ({"number": NUMBER, "text": "a" * 1601}, 422, "body.text"),
        ({"number": NUMBER, "text": 7}, 422, "body.text"),
        ({"number": "12345", "text": "hello"}, 422, "body.number"),
        ({"number": "+1234", "text": "hello"}, 422, "body.number"),
        ({"number": NUMBER, "text": "hello", "priority": "soon"}, 422, "body.priority"),
        ({"number": NUMBER, "text": "hello", "colour": "red"}, 422, "body.colour"),
        ({"number": NUMBER, "text": "hello", "callback_url": "ftp://example.org"}, 422, "body.callback_url"),
        ([], 422, "body"),
    ],
)
async def test_a_bad_body_is_refused_with_what_and_where(body: Any, status: int, where: str) -> None:
    """One problem names the place; nothing is published."""
    async with running() as gateway:
        answered, problem = await gateway.post("/sms", body)
        assert (answered, problem["status"]) == (status, status)
        assert [what["where"] for what in problem["errors"]] == [where]
        assert problem["detail"]
        assert (await gateway.ledger.snapshot()).published == 0


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"number": "+541166587382", "text": "\\ud800"}', "application/json", 422),
        (b"[" * 60_000, "application/json", 400),
        (b'{"number": "+541166587382", "text": "hello"}', "text/plain", 415),
        (b'{"number": "+541166587382", "text": "hello"}', "application/json; charset=latin-1", 415),
        (b" " * 70_000, "application/json", 413),
    ],
)
async def test_what_is_no_json_is_refused(body: bytes, kind: str, status: int) -> None:
    """Broken JSON, broken Unicode, endless nesting, another type, too much: a problem each, and no more than that."""
    async with running(sends=False) as gateway:
        answered, problem = await gateway.post("/sms", data=body, headers={"Content-Type": kind})
        assert (answered, problem["status"]) == (status, status)


@pytest.mark.parametrize(
    "uuid", ["nonsense", "20260101-000000-aaaa.0", "a.01", "a.-1", "a." + "9" * 60, "a.%F0%9F%92%A9"]
)
async def test_an_unknown_message_is_not_found(uuid: str) -> None:
    """Neither a malformed id nor an unknown run nor a seq beyond the last is a message."""
    async with running() as gateway:
        run, _, seq = (await gateway.send())["uuid"].partition(".")
        for unknown in (uuid, f"{run}.{int(seq) + 1}"):
            status, problem = await gateway.get(f"/sms/{unknown}")
            assert (status, problem["status"]) == (404, 404)


async def test_urgent_messages_take_the_urgent_lane() -> None:
    """They are consumed from the other queue, and say so."""
    async with running(sends=False) as gateway:
        await gateway.send()
        urgent = await gateway.send(priority="urgent")
        depths = await gateway.broker.depths()
        assert (depths["sms_queue"], depths["sms_queue.urgent"]) == (1, 1)
        _, seen = await gateway.get(f"/sms/{urgent['uuid']}")
        assert seen["priority"] == "urgent"


async def test_messages_that_come_together_are_answered_each() -> None:
    """Five hundred at once: five hundred different ids, each sent once."""
    async with running() as gateway:
        accepted = await asyncio.gather(*(gateway.send(text=f"number {k}") for k in range(500)))
        assert len({one["uuid"] for one in accepted}) == 500

        async def all_sent() -> bool:
            snapshot = await gateway.ledger.snapshot()
            return (snapshot.sent, snapshot.published, snapshot.failed) == (500, 500, 0)

        await eventually(all_sent)


async def test_with_the_broker_away_messages_are_accepted_and_sent_later() -> None:
    """202 at once; each is sent once when the broker is back, whether it had kept the unconfirmed batch or not."""
    for kept in (False, True):
        broker = Away()
        broker.kept = kept
        async with running(broker=broker, relay_limits=QUICK) as gateway:
            accepted = [await gateway.send(text=f"number {k}") for k in range(3)]
            broker.away = False
            for one in accepted:
                assert (await gateway.ends(one["uuid"]))["status"] == "sent"
            now = await gateway.ledger.snapshot()
            assert (now.published, now.sent, now.ambiguous) == (3, 3, 0)


async def test_a_full_backlog_is_said() -> None:
    """As many as GATEWAY_BACKLOG are accepted while the broker is away; then 503 with Retry-After; then again 202."""
    broker = Away()
    async with running(broker=broker, relay_limits=QUICK, gateway_backlog=3) as gateway:
        accepted = [await gateway.send() for _ in range(3)]
        for path, body in (("/sms", SMS), ("/sms/batch", [SMS])):
            async with gateway.http.post(path, json=body) as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) >= 1
                assert "nothing was accepted" in (await answer.json(content_type=None))["detail"]
        await eventually(lambda: gateway.gateway.acceptance.backlog == 3, describe="the metric has it")
        broker.away = False
        for one in accepted:
            await gateway.ends(one["uuid"])
        await eventually(lambda: _is_accepted(gateway), describe="there is room again")
        assert (await gateway.ledger.snapshot()).published == 4


async def _is_accepted(gateway: Running) -> bool:
    return (await gateway.post("/sms", SMS))[0] == 202


async def test_too_many_that_wait_are_refused() -> None:
    """Beyond the bound: 429 with Retry-After, and those that waited before are still answered."""
    async with world(limits=AcceptanceLimits(waiting=3)) as it:
        gate = it.store.gate("before accept")
        gate.shut()
        waiting = [asyncio.create_task(it.gateway.send()) for _ in range(3)]
        await eventually(lambda: it.gateway.gateway.acceptance.pending == 3)
        async with it.gateway.http.post("/sms", json=SMS) as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) >= 1
        gate.wake()
        assert len(await asyncio.gather(*waiting)) == 3


async def test_other_paths_and_methods_are_problems_too() -> None:
    """404 and 405 as problem+json, 405 with Allow."""
    async with running(sends=False) as gateway:
        async with gateway.http.get("/nowhere") as answer:
            assert (answer.status, answer.content_type) == (404, "application/problem+json")
        async with gateway.http.put("/sms") as answer:
            assert (answer.status, answer.content_type) == (405, "application/problem+json")
            assert answer.headers["Allow"] == "POST"
        async with gateway.http.delete("/runs") as answer:
            assert answer.status == 405
            assert {"GET", "POST"} <= set(answer.headers["Allow"].replace(" ", "").split(","))


async def test_the_same_key_gives_the_same_message_once() -> None:
    """Ten requests with one key, at once and later: one message; another body with it is refused."""
    headers = {"Idempotency-Key": "one"}
    body = {"number": NUMBER, "text": "hello"}
    async with running() as gateway:
        answers = await asyncio.gather(*(gateway.post("/sms", body, headers=headers) for _ in range(10)))
        assert {status for status, _ in answers} == {202}
        (first,) = {answer["uuid"] for _, answer in answers}
        async with gateway.http.post("/sms", json=body, headers=headers) as again:
            assert again.status == 202
            assert again.headers["Idempotent-Replayed"] == "true"
            assert (await again.json())["uuid"] == first
        status, problem = await gateway.post("/sms", {**body, "text": "other"}, headers=headers)
        assert (status, problem["errors"][0]["where"]) == (422, "header.Idempotency-Key")
        await gateway.ends(first)
        assert (await gateway.ledger.snapshot()).published == 1


@pytest.mark.parametrize(
    "same",
    [
        '{"text": "hello", "number": "+541166587382"}',
        ' {"number" :"+541166587382",\n"text":"h\\u0065llo"} ',
        '{"number": "+54 11 6658-7382", "text": "hello", "priority": "normal", "callback_url": null}',
    ],
)
@pytest.mark.parametrize("fast", [True, False])
async def test_the_same_request_written_otherwise_is_the_same(same: str, fast: bool) -> None:
    """What it says counts, not its bytes: a client that sends it again with a new key would send the message twice."""
    headers = {
        "Idempotency-Key": "one",
        "Content-Type": "application/json" if fast else "application/json;charset=utf-8",
    }
    async with running() as gateway:
        _, first = await gateway.post(
            "/sms", data=b'{"number":"+541166587382","text":"hello"}', headers=headers
        )
        status, again = await gateway.post("/sms", data=same.encode(), headers=headers)
        assert (status, again) == (202, first)
        for other in (
            '{"number": "+541166587382", "text": "hello "}',
            '{"number": "+541166587383", "text": "hello"}',
        ):
            assert (await gateway.post("/sms", data=other.encode(), headers=headers))[0] == 422
        urgent = same.replace('"text"', '"priority": "urgent", "text"', 1).replace(
            ', "priority": "normal"', ""
        )
        assert (await gateway.post("/sms", data=urgent.encode(), headers=headers))[0] == 422
        assert (await gateway.ledger.snapshot()).published == 1


async def test_a_key_of_a_refused_request_is_free_again() -> None:
    """What came to nothing may be tried again with the same key."""
    headers = {"Idempotency-Key": "one"}
    async with running() as gateway:
        status, _ = await gateway.post("/sms", {"number": "+1", "text": "hello"}, headers=headers)
        assert status == 422
        status, _ = await gateway.post("/sms", {"number": NUMBER, "text": "hello"}, headers=headers)
        assert status == 202


async def test_a_message_that_is_not_taken_in_costs_no_rate() -> None:
    """Neither on the fast lane nor on the ordinary way, which is tried after it: the next one is within the rate."""
    async with running(acceptance_limits=AcceptanceLimits(waiting=0), gateway_rate=0.001) as gateway:
        for _ in range(3):
            status, problem = await gateway.post("/sms", {"number": NUMBER, "text": "hello"})
            assert status == 429
            assert "wait to be accepted" in problem["detail"]


async def test_a_long_run_makes_way_for_another() -> None:
    """After so many messages the next one belongs to a new run; the former ends, with all that it had."""
    limits = AcceptanceLimits(rotate_messages=3)
    async with running(acceptance_limits=limits, relay_limits=QUICK) as gateway:
        uuids = [(await gateway.send())["uuid"] for _ in range(5)]
        runs = [uuid.partition(".")[0] for uuid in uuids]
        assert runs[0] == runs[1] == runs[2] != runs[3] == runs[4]
        for uuid in uuids:
            await gateway.ends(uuid)

        async def former_is_over() -> bool:
            now = await gateway.ledger.snapshot(runs[0])
            return (now.total, now.published, now.sent) == (3, 3, 3)

        await eventually(former_is_over)
        assert (await gateway.ledger.publication(runs[3])).publishing


@pytest.mark.parametrize("limit", ["gateway_rate", "gateway_key_rate"])
async def test_over_the_limit_nothing_is_taken_in(limit: str) -> None:
    """429 with Retry-After, for a message and for a batch; what was within the limit is sent."""
    total, own = (0.01, None) if limit == "gateway_rate" else (None, 0.01)
    async with running(gateway_rate=total, gateway_key_rate=own) as gateway:
        accepted = await gateway.send()
        for path, body in (
            ("/sms", {"number": NUMBER, "text": "a"}),
            ("/sms/batch", [{"number": NUMBER, "text": "a"}]),
        ):
            async with gateway.http.post(path, json=body) as answer:
                assert answer.status == 429
                assert int(answer.headers["Retry-After"]) >= 1
        assert (await gateway.ends(accepted["uuid"]))["status"] == "sent"
        assert (await gateway.ledger.snapshot()).published == 1
