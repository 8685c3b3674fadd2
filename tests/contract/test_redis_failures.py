"""Redis fails over, refuses, or loses everything: every client goes on once it can serve again, or says why not."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from common.errors import Refused, Unavailable
from common.keys import Keys
from common.ledger.redis import RedisLedger
from common.messages import Lane, Message
from common.rate.redis import RedisRateLimit
from common.redis import Client, RedisTiming, connect_redis
from common.settings import Settings
from common.tracking.port import Status, Step
from common.tracking.redis import RedisTracker
from common.web.keys.redis import RedisApiKeys
from gateway.acceptance.redis import Keeping, RedisAcceptances
from gateway.callbacks.redis import RedisCallbacks
from tests.chaos.proxy import Proxy
from tests.chaos.servers import SentinelRedis
from tests.servers import RedisServer
from tests.waiting import eventually

KEYS = Keys()

RUN = "fails"
STEP = Step(run=RUN, message=Message(0, "+358401234567", "x"), status=Status.SENDING, attempt=1, at_us=1)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica."""
    for name in ("primary", "replica"):
        (tmp_path / name).mkdir()
    with (
        RedisServer(folder=tmp_path / "primary") as primary,
        RedisServer(folder=tmp_path / "replica") as replica,
    ):
        follow(replica, primary)
        yield primary, replica


def follow(replica: RedisServer, primary: RedisServer) -> None:
    """Makes a server the replica of another."""
    with primary._client() as operator:
        operator.config_set("repl-diskless-sync-delay", 0)
    with replica._client() as operator:
        operator.replicaof(primary.host, primary.port)


def lead(server: RedisServer) -> None:
    """Makes a server a primary."""
    with server._client() as operator:
        operator.replicaof("NO", "ONE")


def swap(primary: RedisServer, replica: RedisServer) -> None:
    """A planned failover: nothing is lost."""
    with primary._client() as operator:
        operator.set("test:last", 1)
        assert operator.wait(1, 60_000) == 1
    lead(replica)
    follow(primary, replica)


async def every_call(client: Client) -> None:
    """One call of each store that writes to Redis."""
    ledger, tracker = RedisLedger(client), RedisTracker(client)
    await ledger.ready()
    await ledger.claim(RUN, np.arange(3), False)
    await ledger.reject(1)
    await RedisApiKeys(client).revoke("nobody")
    await RedisRateLimit(client, KEYS.rate("q"), 100).take(Lane.BULK, 1)
    await RedisCallbacks(client).due(1)
    await RedisCallbacks(client).remove([f"{RUN}.1"])
    acceptances = RedisAcceptances(client, tracker, "q", "gateway", Keeping())
    await acceptances.open(f"{RUN}-accepted", Lane.BULK)


async def test_every_client_goes_on_at_the_new_primary(pair: tuple[RedisServer, RedisServer]) -> None:
    """The old primary lives on as a replica, and open connections still lead to it: they are replaced."""
    old, new = pair
    endpoint = Proxy(old.host, old.port)
    await endpoint.open()
    client = Client(Settings(redis_host=endpoint.host, redis_port=endpoint.port))
    ledger, tracker = RedisLedger(client), RedisTracker(client)
    heard = asyncio.create_task(_heard(tracker))
    try:
        await every_call(client)
        await asyncio.gather(*(ledger.snapshot() for _ in range(20)))  # as many connections
        swap(old, new)
        endpoint.upstream = (new.host, new.port)
        async with asyncio.timeout(30):
            await every_call(client)
        with new._client() as operator:
            assert operator.hget(KEYS.stats, "rejected") == b"2"

        async def hears_the_new_primary() -> bool:
            tracker.publish([STEP])
            return heard.done()

        await eventually(hears_the_new_primary, 30)
    finally:
        heard.cancel()
        await tracker.close()
        await client.aclose()
        await endpoint.close()


async def _heard(tracker: RedisTracker) -> list[Step]:
    async for steps in tracker.listen():
        return steps
    raise AssertionError("the listener has ended")


async def test_a_listener_leaves_the_old_primary(pair: tuple[RedisServer, RedisServer]) -> None:
    """It only reads, so nothing fails for it; the failure of another call of its client moves it, too."""
    old, new = pair
    endpoint = Proxy(old.host, old.port)
    await endpoint.open()
    client = Client(Settings(redis_host=endpoint.host, redis_port=endpoint.port))
    tracker = RedisTracker(client)
    heard = asyncio.create_task(_heard(tracker))

    def subscribers(server: RedisServer) -> bool:
        with server._client() as operator:
            return bool(operator.pubsub_numsub("sms:0:SMS")[0][1])

    try:
        await eventually(lambda: subscribers(old))
        await RedisLedger(client).ready()
        swap(old, new)
        endpoint.upstream = (new.host, new.port)
        await RedisLedger(client).ready()
        await eventually(lambda: subscribers(new) and not subscribers(old), 30)
    finally:
        heard.cancel()
        await tracker.close()
        await client.aclose()
        await endpoint.close()


async def test_sentinels_name_the_primary() -> None:
    """Of two servers, they name the one that takes writes; when it dies, every call goes on at the other one."""
    with SentinelRedis() as servers:
        first = servers.primary
        client = await connect_redis(servers.settings, 30)
        try:
            await every_call(client)
            with servers.replica._client() as operator:  # which nobody will follow
                operator.config_set("min-replicas-to-write", 0)
            first.kill()
            async with asyncio.timeout(60):
                await every_call(client)
            assert servers.primary is not first
        finally:
            await client.aclose()


async def test_a_primary_that_no_sentinel_knows_is_said() -> None:
    """The line names the settings."""
    with SentinelRedis() as servers:
        settings = servers.settings.model_copy(update={"redis_sentinel_master": "another"})
        with pytest.raises(Unavailable, match=r"'another' .* \(REDIS_SENTINELS, REDIS_SENTINEL_MASTER\)"):
            await connect_redis(settings, 0.5)


TIMING = RedisTiming(first_backoff_s=0.01, longest_backoff_s=0.02, login_s=3600)


@contextlib.asynccontextmanager
async def user_of(server: RedisServer, *rules: str, timing: RedisTiming = TIMING) -> AsyncIterator[Client]:
    """A client with a user of its own, who has these rights."""
    with server._client() as operator:
        operator.execute_command("ACL", "SETUSER", "app", "reset", "on", ">right", *rules)
        settings = server.settings.model_copy(
            update={"redis_user": "app", "redis_password": Settings(redis_password="right").redis_password}
        )
        client = Client(settings, timing)
        try:
            yield client
        finally:
            await client.aclose()
            operator.execute_command("ACL", "DELUSER", "app")


async def test_a_user_with_what_it_needs_is_let_in(redis_server: RedisServer) -> None:
    """The default user may be off, and what an administrator may is not needed."""
    async with user_of(redis_server, "~sms:*", "&SMS*", "+@all", "-@admin", "-@dangerous") as client:
        await every_call(client)


async def test_a_login_that_is_refused_for_a_while_is_waited_for(redis_server: RedisServer) -> None:
    """An operator replaces a user: connections end, and its login is refused until it is there again."""
    async with user_of(redis_server, "~*", "&*", "+@all") as client:
        ledger = RedisLedger(client)
        await ledger.ready()
        with redis_server._client() as operator:
            operator.execute_command("ACL", "DELUSER", "app")
            asked = asyncio.create_task(ledger.ready())
            await eventually(lambda: client._login_refused_s is not None)
            assert not client.is_locked_out
            assert not asked.done()
            operator.execute_command("ACL", "SETUSER", "app", "on", ">right", "~*", "&*", "+@all")
        async with asyncio.timeout(30):
            await asked


async def test_a_login_that_is_refused_for_long_needs_a_restart(redis_server: RedisServer) -> None:
    """A password was changed: calls fail at once by then, until the old one is right again."""
    timing = RedisTiming(first_backoff_s=0.01, longest_backoff_s=0.02, login_s=0.1)
    async with user_of(redis_server, "~*", "&*", "+@all", timing=timing) as client:
        ledger = RedisLedger(client)
        await ledger.ready()
        with redis_server._client() as operator:
            operator.execute_command("ACL", "DELUSER", "app")
            with pytest.raises(Refused, match="REDIS_USER"):
                await ledger.ready()
            assert client.is_locked_out
            operator.execute_command("ACL", "SETUSER", "app", "on", ">right", "~*", "&*", "+@all")
        await ledger.ready()
        assert not client.is_locked_out


LASTING: dict[str, Callable[[Client], Awaitable[object]]] = {
    "ready": lambda client: RedisLedger(client).ready(),
    "claim": lambda client: RedisLedger(client).claim(RUN, np.arange(3), False),
    "reject": lambda client: RedisLedger(client).reject(1),
    "snapshot": lambda client: RedisLedger(client).snapshot(),
    "keys": lambda client: RedisApiKeys(client).all(),
    "rate": lambda client: RedisRateLimit(client, KEYS.rate("q"), 100).take(Lane.BULK, 1),
    "callbacks": lambda client: RedisCallbacks(client).due(1),
}


@pytest.mark.parametrize("call", LASTING)
async def test_a_missing_permission_ends_a_call_at_once(redis_server: RedisServer, call: str) -> None:
    """The error has the server's own words."""
    async with user_of(redis_server, "~sms:*", "+hello", "+ping", "+client") as client:
        with pytest.raises(Refused, match=r"^Redis refuses: NOPERM .*permission"):
            await LASTING[call](client)


async def test_the_reason_why_redis_cannot_be_reached_is_told(unused_tcp_port: int) -> None:
    """By the error itself: the log may be elsewhere. Another server's port is no bug."""

    async def amqp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"AMQP\x00\x00\x09\x01")
        writer.close()

    async with await asyncio.start_server(amqp, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        for given, reason in (
            ({"redis_host": "127.0.0.1", "redis_port": port}, "Protocol error"),
            ({"redis_host": "127.0.0.1", "redis_port": unused_tcp_port}, "Connect call failed"),
            ({"redis_host": "no-such-host.invalid"}, "not known|No address|failure in name resolution"),
        ):
            with pytest.raises(Unavailable, match=f"within 0.5 s: .*({reason}).*: is it running"):
                await connect_redis(Settings(**given), 0.5)


async def test_a_redis_without_scripts_is_not_ready(redis_server: RedisServer) -> None:
    """Plain writes work there, but all that counts is written by scripts."""
    async with user_of(redis_server, "~*", "&*", "+@all", "-evalsha") as client:
        with pytest.raises(Refused, match="evalsha"):
            await RedisLedger(client).ready()


@pytest.mark.parametrize("call", sorted(set(LASTING) - {"ready"}))
async def test_a_key_that_others_have_overwritten_ends_a_call_at_once(
    redis_server: RedisServer, call: str
) -> None:
    """Repeating does not help; the error has the server's own words, and not the call that it is about."""
    redis_server.flush()
    client = Client(redis_server.settings)
    with redis_server._client() as operator:
        for key in (KEYS.stats, KEYS.run(RUN), KEYS.api_keys, KEYS.rate("q"), KEYS.callbacks):
            operator.rpush(key, "not ours")
    try:
        with pytest.raises(Refused, match=r"^Redis refuses: WRONGTYPE Operation"):
            await LASTING[call](client)
    finally:
        await client.aclose()
        redis_server.flush()


async def test_a_write_counts_once_a_replica_has_it(pair: tuple[RedisServer, RedisServer]) -> None:
    """Without a replica it is repeated, and changes nothing twice."""
    primary, replica = pair
    lead(replica)
    settings = primary.settings.model_copy(update={"redis_wait_replicas": 1})
    client = Client(settings, RedisTiming(first_backoff_s=0.01, longest_backoff_s=0.02, replicas_s=0.05))
    ledger = RedisLedger(client)
    try:
        calls = [ledger.announce(RUN, 0, 5), ledger.claim(RUN, np.arange(3), False), ledger.ready()]
        asked = asyncio.gather(*calls)
        with primary._client() as operator:
            await eventually(lambda: operator.hget(KEYS.stats, "sending") == b"3")
            assert not asked.done()
            follow(replica, primary)
            async with asyncio.timeout(60):
                await asked
        now = await ledger.snapshot(RUN)
        assert (now.published, now.sending) == (5, 3)
        with replica._client() as operator:
            assert operator.hget(KEYS.stats, "sending") == b"3"
    finally:
        await client.aclose()


async def test_a_wait_for_the_disks_of_replicas_needs_redis_7_2(redis_server: RedisServer) -> None:
    """An older Redis refuses it at the start, in its own words."""
    settings = redis_server.settings.model_copy(update={"redis_wait_replicas": 1, "redis_wait_aof": True})
    with redis_server._client() as operator:
        version = tuple(map(int, operator.info("server")["redis_version"].split(".")[:2]))
    if version < (7, 2):
        with pytest.raises(Refused, match="ERR unknown command 'WAITAOF'"):
            await connect_redis(settings, 10)
    else:
        await (await connect_redis(settings, 10)).aclose()


@pytest.mark.parametrize("may_read_config", [True, False])
@pytest.mark.parametrize(("policy", "warnings"), [("allkeys-lru", 1), ("volatile-ttl", 1), ("noeviction", 0)])
async def test_a_redis_that_evicts_is_warned_of(
    redis_server: RedisServer,
    policy: str,
    warnings: int,
    may_read_config: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At start, also where CONFIG is forbidden."""
    with redis_server._client() as operator:
        operator.config_set("maxmemory-policy", policy)
        operator.execute_command("ACL", "SETUSER", "default", "+config" if may_read_config else "-config")
        try:
            with caplog.at_level(logging.WARNING):
                await (await connect_redis(redis_server.settings, 10)).aclose()
        finally:
            operator.execute_command("ACL", "SETUSER", "default", "+config")
            operator.config_set("maxmemory-policy", "noeviction")
    assert [record.message for record in caplog.records].count("ledger_may_be_evicted") == warnings
