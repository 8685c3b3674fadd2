"""The gateway's audit log: who sent, started and canceled what, and who was refused; and nothing else."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from common.audit import open_audit_log
from common.settings import load_settings
from common.web.keys.port import OWN_SCOPES, new_key
from common.web.operations import Scope
from tests.gateway.running import NUMBER, Running, running

SECRETS = "a text that is nobody's business"
SMS = {"number": NUMBER, "text": SECRETS}


async def test_each_action_is_a_line_with_the_key_and_the_count(tmp_path: Path) -> None:
    """Reads are none. No line has a number, a text or a secret."""
    path = tmp_path / "audit.log"
    audit = open_audit_log(load_settings(audit_log=path), "gateway")
    async with running(gateway_auth=True, sends=False, audit=audit) as it:
        key, whole = new_key("shop", OWN_SCOPES, 0)
        reader, read_only = new_key("reader", {Scope.READ}, 0)
        for made in (key, reader):
            await it.stores.api_keys.add(made)
        sent = {"X-API-Key": whole}
        uuids = [await post(it, "/sms", SMS, sent) for _ in range(2)]  # the second by the fast lane
        keyed = {**sent, "Idempotency-Key": "once"}
        run = await post(it, "/sms/batch", [SMS] * 3, keyed)
        assert run == await post(it, "/sms/batch", [SMS] * 3, keyed)
        started = await post(it, "/runs", {"num_messages": 7}, sent)
        async with it.http.delete(f"/sms/{uuids[0]}", headers=sent) as answer:
            assert answer.status == 200
        assert (await it.post(f"/runs/{run}/cancel", headers=sent))[0] == 200
        assert (await it.get(f"/sms/{uuids[0]}", headers=sent))[0] == 200
        assert (await it.post("/sms", {"number": "nonsense", "text": SECRETS}, headers=sent))[0] == 422
        wrong = {"X-API-Key": whole[:-1] + ("a" if whole[-1] != "a" else "b")}
        for headers, status in (({}, 401), (wrong, 401), ({"X-API-Key": read_only}, 403)):
            assert (await it.post("/sms", SMS, headers=headers))[0] == status
        with pytest.raises(InvalidStatus):
            await connect(f"ws://127.0.0.1:{it.port}/events")
        assert (await it.post("/sms", SMS, headers={**sent, "Origin": "https://evil.example"}))[0] == 403

    written = path.read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert {line["key"] for line in requests} == {key.id}
    assert [
        (line["operation"], line.get("messages", line.get("canceled")), line["id"]) for line in requests
    ] == [
        ("POST /sms", 1, uuids[0]),
        ("POST /sms", 1, uuids[1]),
        ("POST /sms/batch", 3, run),
        ("POST /sms/batch", 0, run),
        ("POST /runs", 7, started),
        ("DELETE /sms/{uuid}", 1, uuids[0]),
        ("POST /runs/{run}/cancel", 3, run),
    ]
    assert [
        (line["operation"], line["status"], line.get("key"), line["address"])
        for line in lines
        if line["event"] == "refused"
    ] == [
        ("POST /sms", 401, None, "127.0.0.1"),
        ("POST /sms", 401, key.id, "127.0.0.1"),
        ("POST /sms", 403, reader.id, "127.0.0.1"),
        ("WS /events", 401, None, "127.0.0.1"),
        ("*", 403, None, "127.0.0.1"),
    ]
    for hidden in (SECRETS, NUMBER[1:], whole.split("_")[2], wrong["X-API-Key"].split("_")[2]):
        assert hidden not in written


async def post(it: Running, path: str, body: Any, headers: dict[str, str]) -> str:
    """Posts, and gives the id of what was accepted."""
    status, accepted = await it.post(path, body, headers=headers)
    assert status == 202, accepted
    await asyncio.sleep(0)
    return str(accepted.get("uuid") or accepted["run"])
