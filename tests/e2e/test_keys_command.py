"""`smsim keys` as an operator would type it, on a real Redis."""

import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.keys import Keys
from common.web.keys.port import ApiKeys
from common.web.keys.redis import RedisApiKeys
from gateway.callbacks.signing import Signer
from tests.e2e.processes import Launcher
from tests.servers import RedisServer


class Bench:
    """The command, and the store that it works on."""

    def __init__(self, launcher: Launcher, keys: ApiKeys) -> None:
        self.launcher, self.keys = launcher, keys

    async def smsim_keys(self, *arguments: object, code: int = 0, **env: object) -> tuple[str, str]:
        launched = self.launcher.start("smsim", "keys", *arguments, **env)
        assert await launched.ended() == code, launched.stderr
        assert "Traceback" not in launched.stderr
        return launched.stdout, launched.stderr


@pytest.fixture
async def bench(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Bench]:
    from common.redis import Client

    launcher = Launcher(tmp_path, {"REDIS_HOST": redis_server.host, "REDIS_PORT": redis_server.port})
    async with Client(redis_server.settings) as client:
        await client.delete(Keys().api_keys, Keys().api_key_uses)
        yield Bench(launcher, RedisApiKeys(client))
        await client.delete(Keys().api_keys, Keys().api_key_uses)
    launcher.close()


async def test_create_list_and_revoke(bench: Bench) -> None:
    """The key is printed once, alone on stdout; lists show no secret and no hash of one; a revoked key is gone."""
    both, said = await bench.smsim_keys("create", "--name", "web shop")
    prefix, both_id, secret = both.removesuffix("\n").split("_")
    assert (prefix, len(secret), both.count("\n")) == ("smsim", 52, 1)
    assert f"live key {both_id} of web shop with the scopes read,send" in said
    assert secret not in said
    read, _ = await bench.smsim_keys("create", "--name", "grafana", "--scope", "read")
    read_id = read.split("_")[1]

    listed, _ = await bench.smsim_keys("list", "--json")
    kept = await bench.keys.all()
    assert [(k["id"], k["name"], k["scopes"]) for k in json.loads(listed)] == [
        (both_id, "web shop", ["read", "send"]),
        (read_id, "grafana", ["read"]),
    ]
    table, _ = await bench.smsim_keys("list")
    head, first, second = table.splitlines()
    assert head.split() == ["ID", "NAME", "KIND", "SCOPES", "CREATED", "EXPIRES", "LAST", "USE"]
    assert (both_id in first, "web shop" in first, read_id in second) == (True, True, True)
    for key in kept.values():
        for hidden in (secret, key.digest.hex()):
            assert hidden not in listed + table

    out, said = await bench.smsim_keys("revoke", both_id)
    assert (out, said) == ("", f"key {both_id} is revoked: gateways refuse it within 5 s\n")
    assert list(await bench.keys.all()) == [read_id]


async def test_the_audit_log_has_what_was_done(bench: Bench, tmp_path: Path) -> None:
    """A key that was made and one that was revoked, by its id; a log that can't be opened stops it before that."""
    path = tmp_path / "audit.log"
    out, _ = await bench.smsim_keys("create", "--name", "shop", AUDIT_LOG=path)
    _, key_id, secret = out.strip().split("_")
    await bench.smsim_keys("revoke", key_id, AUDIT_LOG=path)
    created, revoked = [json.loads(line) for line in path.read_text().splitlines()]
    assert (created["event"], created["key"], created["scopes"]) == ("key_created", key_id, ["read", "send"])
    assert (revoked["event"], revoked["key"], revoked["by"]) == ("key_revoked", key_id, f"uid {os.getuid()}")
    assert secret not in path.read_text()
    _, said = await bench.smsim_keys("create", "--name", "shop", AUDIT_LOG=tmp_path, code=2)
    assert said.startswith("smsim keys: AUDIT_LOG=")
    assert await bench.keys.all() == {}


async def test_kinds_ends_and_last_uses_are_listed(bench: Bench) -> None:
    """The last day of a key is meant whole; the numbers of a team key are in no list."""
    await bench.smsim_keys("create", "--name", "ci", "--kind", "test", "--expires", "2099-01-31")
    team = ("--kind", "team", "--to", "+358 40 1234567", "--expires", "2099-01-31T18:00+02:00")
    await bench.smsim_keys("create", "--name", "crew", "--scope", "all", "--scope", "read", *team)
    ci, crew = sorted((await bench.keys.all()).values(), key=lambda key: key.name)
    assert crew.numbers == {"+358401234567"}
    await bench.keys.note_use(ci.id, 4_070_908_800_000_000)
    listed, _ = await bench.smsim_keys("list", "--json")
    shown = {
        key["name"]: (key["kind"], key["scopes"], key["expires"], key["last_use"])
        for key in json.loads(listed)
    }
    assert shown == {
        "ci": ("test", ["read", "send"], "2099-02-01T00:00:00Z", "2099-01-01T00:00:00Z"),
        "crew": ("team", ["all", "read"], "2099-01-31T16:00:00Z", None),
    }
    table, _ = await bench.smsim_keys("list")
    assert "1234567" not in listed + table


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("revoke", "abcdefgh"), "smsim keys: no key abcdefgh: smsim keys list shows the ids\n"),
        (
            ("revoke", f"smsim_abcdefgh_{'s' * 52}"),
            "smsim keys: no key of this id: smsim keys list shows the ids\n",
        ),
        (("revoke",), "the following arguments are required: ID"),
        (("create",), "the following arguments are required: --name"),
        (("create", "--name", "  "), "a name is 1 to 64 printable characters"),
        (("create", "--name", "two\nlines"), "a name is 1 to 64 printable characters"),
        (("create", "--name", "x", "--scope", "admin"), "invalid choice: 'admin'"),
        (("create", "--name", "x", "--kind", "dead"), "invalid choice: 'dead'"),
        (("create", "--name", "x", "--kind", "team"), "--kind team and --to NUMBER together"),
        (("create", "--name", "x", "--to", "+358401234567"), "--kind team and --to NUMBER together"),
        (("create", "--name", "x", "--kind", "team", "--to", "12"), "no number to send to"),
        (("create", "--name", "x", "--expires", "tomorrow"), "write it like 2027-01-31"),
        (("create", "--name", "x", "--expires", "9999-12-31"), "write it like 2027-01-31"),
        (("create", "--name", "x", "--expires", "2020-01-31"), "this time is over"),
        ((), "create|list|revoke"),
        (("drop",), "invalid choice: 'drop'"),
    ],
)
async def test_bad_usage(bench: Bench, arguments: tuple[object, ...], says: str) -> None:
    """One line that says what to do, exit code 2, nothing done; a key given by mistake is not said again."""
    out, said = await bench.smsim_keys(*arguments, code=2)
    assert out == ""
    assert says in said
    assert said.count("\n") == 1
    assert "s" * 52 not in said
    assert await bench.keys.all() == {}


async def test_a_redis_that_is_away_is_one_line(bench: Bench) -> None:
    """Exit code 1, with the settings to look at."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        _, said = await bench.smsim_keys("list", "--connect-timeout", 0.3, code=1, REDIS_PORT=port)
    assert said.splitlines()[-1].endswith("is it running? (REDIS_HOST, REDIS_PORT)")


async def test_the_secret_of_a_keys_callbacks(bench: Bench) -> None:
    """The same each time, another for each key; an error without CALLBACK_SECRET, and for an unknown key."""
    whole, _ = await bench.smsim_keys("create", "--name", "web shop")
    key_id, on = whole.split("_")[1], "a-secret-of-the-operator"
    secret, _ = await bench.smsim_keys("callback-secret", key_id, CALLBACK_SECRET=on)
    assert secret == Signer([on]).secret_of(key_id) + "\n"
    _, off = await bench.smsim_keys("callback-secret", key_id, code=2)
    assert "callbacks are off: set CALLBACK_SECRET" in off
    _, unknown = await bench.smsim_keys("callback-secret", "zzzz", code=2, CALLBACK_SECRET=on)
    assert "no key zzzz" in unknown
