"""POST /sms/batch and POST /runs: all of a batch or none of it, as a run of its own."""

import dataclasses
import json
from typing import Any, cast

import pytest

from gateway.acceptance.limits import RelayLimits
from gateway.acceptance.port import Acceptances, Kept
from gateway.api import batch_body, batches
from gateway.stores import memory_gateway_stores
from tests.gateway.accepting import QUICK_RELAYS, Away
from tests.gateway.running import Running, quick_settings, running
from tests.waiting import eventually

NDJSON = {"Content-Type": "application/x-ndjson"}
GOOD = b'[{"number": "+541166587382", "text": "hello"}]'


def items(messages: int) -> list[dict[str, str]]:
    return [{"number": f"+5411665{k:05}", "text": f"text {k}"} for k in range(messages)]


def lines(of: list[dict[str, str]]) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in of)


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
        ("?track=true&track=false", GOOD, 400, "query.track"),
        ("?priority=urgent&priority=urgent", GOOD, 400, "query.priority"),
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


async def test_a_batch_is_sent_when_the_broker_is_back() -> None:
    """202 while it is away, with all of the ids; then each message is sent once."""
    broker = Away()
    async with running(broker=broker, relay_limits=QUICK_RELAYS) as gateway:
        status, answer = await gateway.post("/sms/batch", items(1_200))
        assert (status, len(answer["ids"])) == (202, 1_200)
        broker.away = False
        snapshot = await over(gateway, answer["run"], 1_200)
        assert (snapshot.sent, snapshot.ambiguous) == (1_200, 0)


async def test_a_batch_larger_than_the_backlog_is_refused_for_good() -> None:
    """413, which a client does not send again as it is; one that just fits is accepted."""
    async with running(gateway_backlog=10) as gateway:
        status, problem = await gateway.post("/sms/batch", items(11))
        assert status == 413
        assert "GATEWAY_BACKLOG" in problem["detail"]
        assert (await gateway.post("/sms/batch", items(10)))[0] == 202


class NearlyFull:
    """A store with little memory left.

    Attributes:
        used: The percentage in use.
    """

    def __init__(self, store: Acceptances) -> None:
        self.used = 93
        self._store = store

    async def trim(self) -> Kept:
        return Kept(used_bytes=self.used, memory_bytes=100)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


async def test_batches_and_simulated_runs_leave_memory_for_single_messages() -> None:
    """Each takes kilobytes of the ledger for days: an urgent message must not be refused for these."""
    stores = memory_gateway_stores(quick_settings())
    store = NearlyFull(stores.acceptances)
    full = dataclasses.replace(stores, acceptances=cast(Acceptances, store))
    async with running(stores=full, sends=False, relay_limits=RelayLimits(look_s=0.01)) as gateway:
        await eventually(lambda: gateway.gateway.acceptance.kept.memory_bytes)
        for path, body in (("/sms/batch", items(1)), ("/runs", {"num_messages": 1})):
            status, problem = await gateway.post(path, body)
            assert (status, "nearly full" in problem["detail"]) == (503, True)
        await gateway.send(priority="urgent")
        store.used = 91
        await eventually(lambda: gateway.gateway.acceptance.kept.used_bytes == 91)
        assert (await gateway.post("/sms/batch", items(1)))[0] == 202
        assert (await gateway.post("/runs", {"num_messages": 1}))[0] == 202


async def test_the_same_key_gives_the_same_run_once() -> None:
    """The second answer is the first one, ids and all, and no second run begins: whatever way it is written."""
    headers = {"Idempotency-Key": "batch one"}
    async with running() as gateway:
        first = await gateway.post("/sms/batch", items(10), headers=headers)
        assert first[0] == 202
        assert await gateway.post("/sms/batch", items(10), headers=headers) == first
        lines = "".join(json.dumps(dict(reversed(item.items()))) + "\n" for item in items(10)).encode()
        as_lines = {**headers, "Content-Type": "application/x-ndjson"}
        assert (
            await gateway.post("/sms/batch?priority=normal&track=false", data=lines, headers=as_lines)
            == first
        )
        assert (await gateway.post("/sms/batch", items(11), headers=headers))[0] == 422
        assert (await gateway.post("/sms/batch?priority=urgent", items(10), headers=headers))[0] == 422
        assert await gateway.ledger.runs() == [first[1]["run"]]


async def test_a_simulated_run_is_sent() -> None:
    """POST /runs publishes so many messages under its name; the name can't be had twice."""
    async with running() as gateway:
        status, answer = await gateway.post("/runs", {"num_messages": 500, "run": "drill"})
        assert (status, answer) == (202, {"run": "drill", "num_messages": 500})
        await over(gateway, "drill", 500)
        assert (await gateway.post("/runs", {"num_messages": 5, "run": "drill"}))[0] == 409
        assert (await gateway.post("/runs", {"num_messages": 0}))[0] == 422
