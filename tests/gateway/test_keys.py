"""What an API key can do by its kind, and that it sees and cancels its own messages and runs only."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest
from websockets.asyncio.client import connect

from common.messages import Outcome
from common.web.keys.port import ALL_SCOPES, OWN_SCOPES, Kind, new_key
from common.web.operations import Scope
from sender.providers.bulk import Sends
from tests.gateway.running import NUMBER, Running, running
from tests.waiting import eventually

OTHER = "+358401234567"
Headers = dict[str, str]


class Real:
    """A provider that really sends: it notes the numbers."""

    reads_messages = True

    def __init__(self) -> None:
        self.numbers: list[str] = []

    def start(self, sends: Sends) -> None:
        assert sends.messages is not None
        assert not sends.simulated
        self.numbers += [message.to for message in sends.messages]
        sends.outcomes[:] = Outcome.SENT
        sends.finish(0, sends.seqs.size)

    async def close(self) -> None:
        return


async def key_of(it: Running, kind: Kind = Kind.LIVE, scopes: Collection[Scope] = OWN_SCOPES) -> Headers:
    """The header field of a new key; a team key may send to NUMBER."""
    numbers = [NUMBER] if kind is Kind.TEAM else []
    key, whole = new_key(kind, scopes, 0, kind=kind, numbers=numbers)
    assert await it.stores.api_keys.add(key)
    await asyncio.sleep(0)
    return {"X-API-Key": whole}


@contextlib.asynccontextmanager
async def with_keys(**more: Any) -> AsyncIterator[Running]:
    async with running(gateway_auth=True, **more) as it:
        yield it


async def test_a_team_key_sends_to_its_numbers_only() -> None:
    """A message to another number is refused with its place, a batch as a whole, and random messages always."""
    async with with_keys() as it:
        team = await key_of(it, Kind.TEAM)
        sms = {"number": NUMBER, "text": "hello"}
        for _ in range(2):  # by the fast lane, too
            assert (await it.post("/sms", sms, headers=team))[0] == 202
            status, problem = await it.post("/sms", {**sms, "number": OTHER}, headers=team)
            assert (status, problem["errors"][0]["where"]) == (403, "body.number")
        assert (await it.post("/sms/batch", [sms, sms], headers=team))[0] == 202
        status, problem = await it.post("/sms/batch", [sms, {**sms, "number": OTHER}], headers=team)
        assert (status, [error["where"] for error in problem["errors"]]) == (403, ["body[1].number"])
        assert (await it.post("/runs", {"num_messages": 1}, headers=team))[0] == 403
        assert (await it.ledger.snapshot()).published == 4


async def test_a_test_key_is_simulated_whatever_the_provider_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single messages and batches end as sent, and the provider that really sends gets those of the live key only."""
    real = Real()
    monkeypatch.setattr("sender.providers.registry._named", lambda _: real)
    async with with_keys() as it:
        live, test = await key_of(it), await key_of(it, Kind.TEST)
        await it.post("/sms", {"number": OTHER, "text": "hello"}, headers=live)
        await it.post("/sms", {"number": NUMBER, "text": "hello"}, headers=test)
        await it.post("/sms/batch", [{"number": NUMBER, "text": "hello"}] * 3, headers=test)
        await it.post("/runs", {"num_messages": 5}, headers=live)

        async def sent() -> bool:
            return (await it.ledger.snapshot()).sent == 10

        await eventually(sent)
        assert real.numbers == [OTHER]


async def test_a_key_sees_and_cancels_its_own_messages_and_runs_only() -> None:
    """What is another's is answered as what does not exist. A key with the scope `all` sees both."""
    async with with_keys(sends=False) as it:
        mine, yours = await key_of(it), await key_of(it)
        boss = await key_of(it, scopes=ALL_SCOPES)
        posted = {}
        for name, key in (("mine", mine), ("yours", yours)):
            _, single = await it.post("/sms", {"number": NUMBER, "text": name}, headers=key)
            _, batch = await it.post("/sms/batch", [{"number": NUMBER, "text": name}], headers=key)
            _, run = await it.post("/runs", {"num_messages": 1}, headers=key)
            posted[name] = [single["uuid"], batch["ids"][0], f"{run['run']}.0"]
        runs = {name: {uuid.partition(".")[0] for uuid in uuids} for name, uuids in posted.items()}
        assert len(runs["mine"] | runs["yours"]) == 6

        async def listed(key: Headers) -> set[str]:
            status, found = await it.get("/runs", headers=key)
            assert status == 200
            return {view["run"] for view in found["runs"]}

        assert [await listed(key) for key in (mine, yours)] == [runs["mine"], runs["yours"]]
        assert await listed(boss) == runs["mine"] | runs["yours"]

        for uuid in posted["yours"]:
            run = uuid.partition(".")[0]
            for path in (f"/sms/{uuid}", f"/key/{uuid}", f"/runs/{run}"):
                assert (await it.get(path, headers=mine))[0] == 404
                assert (await it.get(path, headers=yours))[0] == 200
                assert (await it.get(path, headers=boss))[0] == 200
            async with it.http.delete(f"/sms/{uuid}", headers=mine) as answer:
                assert answer.status == 404
            assert (await it.post(f"/runs/{run}/cancel", headers=mine))[0] == 404
        assert (await it.ledger.snapshot()).canceled == 0
        assert (await it.post(f"/runs/{run}/cancel", headers=boss))[0] == 200


async def test_what_concerns_all_needs_the_scope_all() -> None:
    """Statistics and metrics are of all keys together."""
    async with with_keys(stand_in=True) as it:
        own, boss = await key_of(it), await key_of(it, scopes=ALL_SCOPES)
        for path in ("/stats", "/inbox"):
            assert (await it.get(path, headers=own))[0] == 403
            assert (await it.get(path, headers=boss))[0] == 200
        async with it.http.get("/metrics", headers=own) as answer:
            assert answer.status == 403


async def test_a_run_of_no_key_is_seen_with_the_scope_all_only() -> None:
    """A producer's, or one of an earlier version."""
    async with with_keys() as it:
        own, boss = await key_of(it), await key_of(it, scopes=ALL_SCOPES)
        await it.ledger.begin("a-run", "no recipe of ours", 1, "a-producer")
        await it.ledger.announce("a-run", 0, 1)
        assert (await it.get("/sms/a-run.0", headers=own))[0] == 404
        assert (await it.get("/sms/a-run.0", headers=boss))[0] == 200


async def test_a_key_hears_of_its_own_messages_and_runs_only() -> None:
    """On the WebSocket and as Server-Sent Events, also if it asks for another's run; statistics are for `all`."""
    async with with_keys() as it, asyncio.timeout(30):
        mine, yours = await key_of(it), await key_of(it)
        boss = await key_of(it, scopes=ALL_SCOPES)
        _, first = await it.post("/sms", {"number": NUMBER, "text": "theirs"}, headers=yours)
        theirs = first["uuid"].partition(".")[0]
        url = f"ws://127.0.0.1:{it.port}/events"
        heard: dict[str, list[dict[str, Any]]] = {"mine": [], "of theirs": [], "boss": []}
        frames: list[str] = []

        async def listen(name: str, query: str, key: Headers) -> None:
            async with connect(url + query, additional_headers=key) as socket:
                async for frame in socket:
                    frames.append(str(frame))
                    heard[name] += json.loads(frame)

        async with it.http.get("/events", headers=mine) as stream:
            listening = [
                asyncio.create_task(listen(name, query, key))
                for name, query, key in (
                    ("mine", "", mine),
                    ("of theirs", f"?run={theirs}", mine),
                    ("boss", "", boss),
                )
            ]
            await eventually(lambda: it.gateway._broadcaster.subscribers == 4)
            _, mine_sent = await it.post("/sms", {"number": NUMBER, "text": "mine"}, headers=mine)
            _, theirs_sent = await it.post("/sms", {"number": NUMBER, "text": "theirs"}, headers=yours)

            def told(name: str, kind: str) -> set[str]:
                return {event["run"] for event in heard[name] if event["type"] == kind}

            my_run = mine_sent["uuid"].partition(".")[0]
            assert theirs_sent["uuid"].partition(".")[0] == theirs
            await eventually(lambda: told("boss", "message") == told("boss", "run") == {my_run, theirs})
            await eventually(lambda: told("mine", "message") == told("mine", "run") == {my_run})
            await eventually(lambda: "[]" in frames)  # a sign of life instead of the statistics
            sse = b""
            while mine_sent["uuid"].encode() not in sse:
                sse += await stream.content.readany()
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)
        assert heard["of theirs"] == []
        assert told("mine", "message") == told("mine", "run") == {my_run}
        assert [event for event in heard["mine"] if event["type"] == "statistics"] == []
        assert b"theirs" not in sse
        assert b"statistics" not in sse
        assert [event for event in heard["boss"] if event["type"] == "statistics"]


async def test_simulated_runs_count_for_the_limits_of_rates() -> None:
    """POST /runs takes from the buckets of GATEWAY_RATE and GATEWAY_KEY_RATE as messages do; a refused one does not."""
    for limit in ("gateway_rate", "gateway_key_rate"):
        async with with_keys(sends=False, **{limit: 10.0}) as it:
            key = await key_of(it)
            assert (await it.post("/runs", {"num_messages": 640_000}, headers=key))[0] == 422
            taken = {"num_messages": 1_000, "run": "a-run"}
            assert (await it.post("/runs", taken, headers=key))[0] == 202
            assert (await it.post("/runs", {"num_messages": 1}, headers=key))[0] == 429
            assert (await it.post("/sms", {"number": NUMBER, "text": "x"}, headers=key))[0] == 429

            async def published() -> bool:
                return (await it.ledger.snapshot()).published == 1_000

            await eventually(published)
    async with with_keys(sends=False, gateway_rate=10.0) as it:
        key = await key_of(it)
        await it.ledger.begin("a-run", "", 1, "another")
        assert (await it.post("/runs", taken, headers=key))[0] == 409
        assert (await it.post("/sms", {"number": NUMBER, "text": "x"}, headers=key))[0] == 202
