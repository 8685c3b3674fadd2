"""common/web/keys/authenticator.py: who is let in, what for, and at what price."""

import asyncio
import hmac
import logging
from collections.abc import Mapping

import pytest
from starlette.requests import HTTPConnection

from common.errors import Unavailable, UsageError
from common.web.keys.authenticator import Authenticator, KeyTiming
from common.web.keys.memory import MemoryApiKeys
from common.web.keys.port import ALL_SCOPES, ApiKey, Caller, new_key
from common.web.operations import Scope
from common.web.problems import Problem

FIXED = "correct-horse-16"


class CountingKeys(MemoryApiKeys):
    """Counts how often it is asked, and can be away or slow."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def all(self) -> dict[str, ApiKey]:
        self.asked += 1
        found = await super().all()
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return found


class Bench:
    """An authenticator on a clock that the test moves, with the keys it asks."""

    def __init__(self, required: bool = True, fixed_key: str | None = None) -> None:
        self.now = 1000.0
        self.keys = CountingKeys()
        self.authenticator = Authenticator(
            self.keys, required, fixed_key, lambda: self.now, unix=lambda: self.now
        )

    async def made(self, *scopes: Scope) -> tuple[ApiKey, str]:
        key, whole = new_key("shop", scopes or ALL_SCOPES, 0)
        await self.keys.add(key)
        return key, whole

    async def caller(self, key: str | None = None, **headers: str) -> Caller:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["x-api-key"] = key
        return await self.authenticator.authenticate(connection(sent))

    async def refused(self, key: str | None = None, **headers: str) -> Problem:
        with pytest.raises(Problem) as caught:
            await self.caller(key, **headers)
        assert caught.value.status == 401
        assert caught.value.headers["WWW-Authenticate"] == 'Bearer realm="smsim"'
        return caught.value


def connection(headers: Mapping[str, str], subprotocols: list[str] | None = None) -> HTTPConnection:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    kind = "http" if subprotocols is None else "websocket"
    return HTTPConnection({"type": kind, "headers": raw, "subprotocols": subprotocols or []})


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
async def test_a_key_in_force_lets_its_caller_in(scheme: str) -> None:
    """As a bearer token or in X-API-Key, with the id, name and scopes of the key."""
    bench = Bench()
    key, whole = await bench.made(Scope.READ)
    expected = Caller(key.id, "shop", frozenset([Scope.READ]))
    assert await bench.caller(authorization=scheme + whole) == expected
    assert await bench.caller(x_api_key=whole) == expected
    # A proxy's own credentials are not ours to judge.
    assert await bench.caller(whole, authorization="Basic dXNlcjpwYXNz") == expected


async def test_a_browser_s_websocket_sends_its_key_as_a_subprotocol() -> None:
    """Beside the protocol that it speaks; a wrong one is refused there too."""
    bench = Bench()
    key, whole = await bench.made()
    caller = await bench.authenticator.authenticate(connection({}, ["smsim.v1", f"key.{whole}"]))
    assert caller.id == key.id
    for offered in (["smsim.v1"], ["smsim.v1", "key."], ["smsim.v1", "key.nonsense"]):
        with pytest.raises(Problem):
            await bench.authenticator.authenticate(connection({}, offered))


async def test_no_key_is_refused_with_a_word_on_how_to_send_one() -> None:
    """401, unless keys are not required: then anybody may do everything."""
    assert "send it as Authorization: Bearer KEY" in (await Bench().refused()).detail
    assert await Bench(required=False).caller() == Caller("anonymous", "anonymous", ALL_SCOPES)


async def test_a_wrong_key_is_refused_and_said_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Where keys are not required as well: who sends one thinks it is right. It stands in no answer and no log."""
    caplog.set_level(logging.DEBUG)
    for required in (True, False):
        bench = Bench(required, FIXED)
        key, whole = await bench.made()
        another = new_key("another", ALL_SCOPES, 0)[1]
        wrong_secret = whole[:-1] + ("a" if whole[-1] != "a" else "b")
        wrong_id = f"smsim_{another.split('_')[1]}_{whole.split('_')[2]}"
        for wrong in (
            "",
            "x",
            FIXED + "x",
            FIXED[:-1],
            another,
            wrong_secret,
            wrong_id,
            whole.upper(),
            key.id,
        ):
            problem = await bench.refused(wrong)
            said = f"{problem.detail} {problem.errors} {problem.headers} {problem.response().body!r}"
            assert "is not in force" in said
            assert not wrong or len(wrong) < 8 or wrong not in said + caplog.text


async def test_the_fixed_key_of_the_settings_may_do_everything_and_asks_nobody() -> None:
    """It works with no store at hand, beside the keys there are."""
    bench = Bench(fixed_key=FIXED)
    bench.keys.error = Unavailable("away")
    assert await bench.caller(FIXED) == Caller("settings", "GATEWAY_API_KEY", ALL_SCOPES)
    assert bench.keys.asked == 0


@pytest.mark.parametrize(
    "weak", ["", "fifteen-letters", "a key with spaces in it", "schlüssel-mit-umlauten", "x\n" * 9]
)
def test_a_weak_fixed_key_is_a_mistake_of_the_operator_s(weak: str) -> None:
    """Too short, or not fit for a header; it is not repeated in the message."""
    with pytest.raises(UsageError, match=r"^GATEWAY_API_KEY: use ") as caught:
        Authenticator(MemoryApiKeys(), True, weak)
    assert not weak or weak not in str(caught.value)


async def test_scopes() -> None:
    """A key does what it was made for, else 403 says which scope it lacks."""
    bench = Bench()
    reader = await bench.caller((await bench.made(Scope.READ))[1])
    bench.authenticator.require(reader, Scope.READ)
    with pytest.raises(Problem, match="lacks the scope send") as caught:
        bench.authenticator.require(reader, Scope.SEND)
    assert caught.value.status == 403


async def test_thousands_of_requests_ask_the_store_once() -> None:
    """All within the time that keys are held, and all at once at its end."""
    bench = Bench()
    _, whole = await bench.made()
    await asyncio.gather(*(bench.caller(whole) for _ in range(3000)))
    assert bench.keys.asked == 1
    bench.now += KeyTiming().kept_s + 0.1
    await asyncio.gather(*(bench.caller(whole) for _ in range(3000)))
    assert bench.keys.asked == 2


async def test_a_revoked_key_is_refused_within_5_s() -> None:
    """Counted from before the store was asked, however long its answer took."""
    bench = Bench()
    key, whole = await bench.made()
    bench.keys.answers.clear()
    waiting = asyncio.create_task(bench.caller(whole))
    while not bench.keys.asked:
        await asyncio.sleep(0)
    bench.now += 3
    bench.keys.answers.set()
    await waiting
    await bench.keys.revoke(key.id)
    await bench.caller(whole)
    bench.now += 1.5
    await bench.refused(whole)
    assert KeyTiming().kept_s < 5


async def test_a_new_key_is_let_in_within_a_second() -> None:
    """For a key that is not held the store is asked again, if the last time is long enough ago."""
    bench = Bench()
    await bench.caller((await bench.made())[1])
    _, whole = await bench.made()
    bench.now += KeyTiming().again_s + 0.1
    await bench.caller(whole)


async def test_made_up_keys_cost_one_question_a_second_and_no_memory() -> None:
    """However many random ids are sent, what is held are the keys that there are."""
    bench = Bench()
    key, whole = await bench.made()
    for _ in range(20):
        for _ in range(50):
            await bench.refused(new_key("made up", ALL_SCOPES, 0)[1])
        bench.now += 0.1
    assert bench.keys.asked <= 3
    assert list(bench.authenticator._held) == [key.id]
    await bench.caller(whole)


async def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By compare_digest, on digests of one length, for ids that nobody has as well."""
    compared, really = [], hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return really(one, other)

    bench = Bench(fixed_key=FIXED)
    _, whole = await bench.made()
    monkeypatch.setattr(hmac, "compare_digest", spy)
    for sent in (whole, new_key("made up", ALL_SCOPES, 0)[1]):
        compared.clear()
        await (bench.caller(sent) if sent == whole else bench.refused(sent))
        assert compared == [(32, 32), (32, 32)]


async def test_a_request_that_is_given_up_takes_no_other_with_it() -> None:
    """The one that began to ask the store is cancelled; those who wait for the same answer get it."""
    bench = Bench()
    _, whole = await bench.made()
    bench.keys.answers.clear()
    first = asyncio.create_task(bench.caller(whole))
    second = asyncio.create_task(bench.caller(whole))
    while not bench.keys.asked:
        await asyncio.sleep(0)
    first.cancel()
    bench.keys.answers.set()
    assert (await second).name == "shop"
    assert bench.keys.asked == 1


async def test_a_store_that_refuses_is_heard_of_and_asked_again() -> None:
    """Its error goes to whoever waits, and the next request asks anew."""
    bench = Bench()
    _, whole = await bench.made()
    bench.keys.error = Unavailable("away")
    with pytest.raises(Unavailable):
        await bench.caller(whole)
    bench.keys.error = None
    assert (await bench.caller(whole)).name == "shop"


def fields(**headers: str) -> dict[bytes, bytes]:
    return {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}


async def test_a_caller_is_recognised_who_was_authenticated_a_moment_ago() -> None:
    """By the very header fields that were checked, and no longer than keys are held."""
    bench = Bench()
    _, whole = await bench.made(Scope.READ)
    sent = fields(authorization=f"Bearer {whole}")
    assert bench.authenticator.recognise(sent) is None
    caller = await bench.caller(authorization=f"Bearer {whole}")
    assert bench.authenticator.recognise(sent) == caller
    assert bench.authenticator.recognise(fields(x_api_key=f"Bearer {whole}")) is None
    assert bench.authenticator.recognise({}) is None
    bench.now += 5
    assert bench.authenticator.recognise(sent) is None
    assert Bench(required=False).authenticator.recognise({}) == Caller("anonymous", "anonymous", ALL_SCOPES)


@pytest.mark.parametrize("name", [b"x-api-key", b"authorization"])
async def test_a_key_that_is_there_twice_is_refused(name: bytes) -> None:
    """Even the same one: which of two counts would depend on who reads them, a proxy or the gateway."""
    bench = Bench()
    _, whole = await bench.made()
    for second in (whole, "another"):
        raw = [(name, whole.encode()), (name, second.encode())]
        for kind in ("http", "websocket"):
            with pytest.raises(Problem, match="more than once") as refused:
                await bench.authenticator.authenticate(HTTPConnection({"type": kind, "headers": raw}))
            assert refused.value.status == 400


async def test_nobody_is_recognised_by_what_was_no_key() -> None:
    """Not by a proxy's credentials that came with a key, or by a WebSocket's fields."""
    bench = Bench()
    _, whole = await bench.made()
    await bench.caller(whole, authorization="Basic dXNlcjpwYXNz")
    assert bench.authenticator.recognise(fields(authorization="Basic dXNlcjpwYXNz")) is None
    await bench.authenticator.authenticate(
        connection({"authorization": "Basic eA=="}, ["smsim.v1", f"key.{whole}"])
    )
    assert bench.authenticator.recognise(fields(authorization="Basic eA==")) is None


async def test_a_key_is_refused_from_its_end_on() -> None:
    """With a word on why, if the secret is right; what was recognised before the end is not recognised after it."""
    bench = Bench()
    key, whole = new_key("shop", ALL_SCOPES, 0, expires_us=int(1_010e6))
    await bench.keys.add(key)
    sent = fields(x_api_key=whole)
    bench.now = 1_009.0
    caller = await bench.caller(whole)
    assert bench.authenticator.recognise(sent) == caller
    bench.now = 1_010.5
    assert bench.authenticator.recognise(sent) is None
    assert "has ended" in (await bench.refused(whole)).detail
    wrong = whole[:-1] + ("a" if whole[-1] != "a" else "b")
    assert "has ended" not in (await bench.refused(wrong)).detail


async def test_the_last_use_is_noted_once_a_minute() -> None:
    """However many requests there are; a refused key is not used."""
    bench = Bench()
    key, whole = await bench.made()
    noted: list[tuple[str, int]] = []

    async def note(key_id: str, at_us: int) -> None:
        noted.append((key_id, at_us))

    bench.keys.note_use = note  # type: ignore[method-assign]
    for _ in range(100):
        await bench.caller(whole)
        await bench.refused(whole.upper())
        bench.now += 1
    await asyncio.sleep(0)
    assert noted == [(key.id, int(at_s * 1e6)) for at_s in (1_000, 1_060)]


async def test_a_use_that_cannot_be_noted_refuses_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The log has a line."""
    bench = Bench()
    _, whole = await bench.made()

    async def note(key_id: str, at_us: int) -> None:
        raise Unavailable("away")

    bench.keys.note_use = note  # type: ignore[method-assign]
    await bench.caller(whole)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert "key_use_not_noted" in caplog.text
