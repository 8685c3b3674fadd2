"""A store of API keys: what common/web/keys/port.py promises, held by the one in memory and by the one in Redis."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator

import msgspec
import pytest
from redis.exceptions import ConnectionError

from common.keys import Keys
from common.redis import Client
from common.web.keys.memory import MemoryApiKeys
from common.web.keys.port import ALL_SCOPES, OWN_SCOPES, ApiKey, ApiKeys, Kind, new_key, parts_of
from common.web.keys.redis import RedisApiKeys
from common.web.operations import Scope
from tests.servers import RedisServer

NOW_US = 1_795_000_000_123_456


def a_key(name: str = "shop", scopes: frozenset[Scope] = ALL_SCOPES) -> ApiKey:
    return new_key(name, scopes, NOW_US)[0]


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Client]:
    async with Client(redis_server.settings) as client:
        await client.delete(Keys().api_keys, Keys().api_key_uses)
        yield client


@pytest.fixture(params=["memory", "redis"])
def keys(request: pytest.FixtureRequest) -> ApiKeys:
    return MemoryApiKeys() if request.param == "memory" else RedisApiKeys(request.getfixturevalue("client"))


async def test_keys_are_in_force_until_they_are_revoked(keys: ApiKeys) -> None:
    """What was added is there as it was added, by id; what was revoked is not."""
    shop, monitor = a_key("shop"), a_key("Zürich 'monitor'", frozenset([Scope.READ]))
    assert await keys.all() == {}
    assert await keys.add(shop)
    assert await keys.add(monitor)
    assert await keys.all() == {shop.id: shop, monitor.id: monitor}
    await keys.revoke(shop.id)
    assert await keys.all() == {monitor.id: monitor}


async def test_each_call_gives_the_same_when_repeated(keys: ApiKeys) -> None:
    """A call whose answer was lost may be made again: adding a key twice adds one, and so with revoking."""
    key = a_key()
    assert [await keys.add(key), await keys.add(key)] == [True, True]
    assert len(await keys.all()) == 1
    for _ in range(2):
        await keys.revoke(key.id)
        assert await keys.all() == {}


async def test_an_id_that_is_taken_stays_its_owner_s(keys: ApiKeys) -> None:
    """Another key with this id is refused, and changes nothing."""
    key = a_key()
    another = ApiKey(**{**{f: getattr(a_key(), f) for f in ApiKey.__struct_fields__}, "id": key.id})
    assert await keys.add(key)
    assert not await keys.add(another)
    assert await keys.all() == {key.id: key}


async def test_every_field_of_a_key_is_kept(keys: ApiKeys) -> None:
    """Kind, numbers and end as well."""
    team = new_key("crew", OWN_SCOPES, NOW_US, kind=Kind.TEAM, numbers=["+358401234567"], expires_us=NOW_US)[
        0
    ]
    await keys.add(team)
    assert await keys.all() == {team.id: team}
    assert team.caller.may_send_to("+358401234567")
    assert not team.caller.may_send_to("+358401234568")


async def test_the_last_use_of_a_key_goes_with_it(keys: ApiKeys) -> None:
    """A later use replaces an earlier one; a revoked key has none."""
    key = a_key()
    await keys.add(key)
    assert await keys.last_uses() == {}
    for at_us in (NOW_US, NOW_US + 60_000_000):
        await keys.note_use(key.id, at_us)
    assert await keys.last_uses() == {key.id: NOW_US + 60_000_000}
    await keys.revoke(key.id)
    assert await keys.last_uses() == {}


async def test_a_key_of_an_earlier_version_can_do_what_it_could(client: Client) -> None:
    """It is live, does not end, and sees the messages of all, as every key did."""
    key = new_key("shop", {Scope.READ}, NOW_US)[0]
    digest = base64.b64encode(key.digest).decode()
    old = {"id": key.id, "name": "shop", "scopes": ["read"], "created_us": NOW_US, "digest": digest}
    await client.hset(Keys().api_keys, key.id, json.dumps(old))
    assert await RedisApiKeys(client).all() == {
        key.id: msgspec.structs.replace(key, scopes=frozenset({Scope.READ, Scope.ALL}))
    }


async def test_a_key_that_cannot_be_read_is_refused_alone(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """One of a later version, with a kind that is not known here: the other keys are in force."""
    key, later = a_key(), a_key()
    await RedisApiKeys(client).add(key)
    of_later = json.loads(msgspec.json.encode(later)) | {"kind": "quantum"}
    await client.hset(Keys().api_keys, later.id, json.dumps(of_later))
    assert await RedisApiKeys(client).all() == {key.id: key}
    assert "key_unreadable" in caplog.text


async def test_keys_of_one_redis_are_shared_and_hold_no_secret(client: Client) -> None:
    """Every gateway sees what any of them, or the command, has added; of the secret there is its SHA-256 only."""
    key, whole = new_key("shop", ALL_SCOPES, NOW_US)
    await RedisApiKeys(client).add(key)
    assert await RedisApiKeys(client).all() == {key.id: key}
    ((_, kept),) = (await client.hgetall(Keys().api_keys)).items()
    secret = whole.split("_")[2]
    assert secret.encode() not in kept
    assert base64.b64encode(hashlib.sha256(secret.encode()).digest()) in kept


async def test_a_lost_answer_makes_no_second_key(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key stands though the answer never came: the repeated call finds its own, and says so."""
    real = client.write
    lost: list[object] = []

    async def write(*command: object) -> object:
        answer = await real(*command)
        if not lost:
            lost.append(answer)
            raise ConnectionError("the connection broke")
        return answer

    monkeypatch.setattr(client, "write", write)
    key = a_key()
    assert await RedisApiKeys(client).add(key)
    assert len(lost) == 1
    assert await RedisApiKeys(client).all() == {key.id: key}


def test_a_new_key_is_made_of_random_parts() -> None:
    """`smsim_<8>_<52>` in letters and digits: 40 random bits of an id, and 256 of a secret that is nowhere kept."""
    made = [new_key("shop", ALL_SCOPES, NOW_US) for _ in range(200)]
    assert len({key.id for key, _ in made}) == len({whole for _, whole in made}) == 200
    for key, whole in made:
        prefix, key_id, secret = whole.split("_")
        assert (prefix, key_id, len(key_id), len(secret)) == ("smsim", key.id, 8, 52)
        assert (key_id + secret).isalnum()
        assert (key_id + secret).islower()
        assert key.digest == hashlib.sha256(secret.encode()).digest()
        assert secret not in repr(key)
        assert parts_of(whole) == (key.id, secret)


@pytest.mark.parametrize(
    "text",
    [
        *("", "smsim", "smsim__", "smsim_abcdefgh", "smsim_abcdefgh_", "smsim_abcdefgh_" + "a" * 51),
        *("smsim_abcdefgh_" + "a" * 53, "smsim_abcdefg1_" + "a" * 52, "SMSIM_abcdefgh_" + "a" * 52),
        *("smsim_abcdefgh_" + "a" * 52 + "\n", " smsim_abcdefgh_" + "a" * 52, "smsim_abcdefgh_" + "é" * 52),
    ],
)
def test_what_has_not_the_form_of_a_key_has_no_parts(text: str) -> None:
    """Such a thing costs no look at the keys."""
    assert parts_of(text) is None
