"""What Redis alone can do wrong: answers that are lost, a wrong password, and what the ledger leaves there."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from redis.exceptions import ConnectionError

from common.errors import Refused, Unavailable
from common.ledger.port import Outcomes, Standing
from common.ledger.redis import RedisLedger
from common.messages import Outcome
from common.redis_client import connect_redis
from common.settings import load_settings
from tests.contract.benches import redis_ledger
from tests.servers import RedisServer
from tests.waiting import eventually

RUN = "lost-answers"
SEQS = np.arange(4)


@pytest.fixture
async def ledger(redis_server: RedisServer) -> AsyncIterator[RedisLedger]:
    """A ledger with a run whose first two messages are sending."""
    ledger = await redis_ledger(redis_server)
    await ledger.begin(RUN, "", 10, "p")
    await ledger.announce(RUN, 0, 10)
    await ledger.claim(RUN, SEQS[:2], False)
    yield ledger
    await ledger.close()


def lose_the_first_answer(ledger: RedisLedger, script: str) -> None:
    """The next call of a script is carried out, and its connection breaks before the answer is here."""
    really: Any = ledger._scripts[script]
    lost = False

    async def call(**given: Any) -> Any:
        nonlocal lost
        answer = await really(**given)
        if not lost:
            lost = True
            raise ConnectionError("the connection broke")
        return answer

    ledger._scripts[script] = call  # type: ignore[assignment]


SETTLE = Outcomes(SEQS[:2], np.array([Outcome.SENT, Outcome.RETRY], np.uint8), np.array([5, 5]))

CALLS: dict[str, Callable[[RedisLedger], Awaitable[Any]]] = {
    "begin": lambda ledger: ledger.begin("another", "", 5, "p"),
    "leave": lambda ledger: ledger.leave(RUN, "p"),
    "resume": lambda ledger: ledger.resume(RUN, "p"),
    "announce": lambda ledger: ledger.announce(RUN, 10, 5),
    "confirm": lambda ledger: ledger.confirm(RUN, 3),
    "settle": lambda ledger: ledger.settle(RUN, SETTLE, "s"),
    "release": lambda ledger: ledger.release(RUN, SEQS[:2]),
    "heartbeat": lambda ledger: ledger.heartbeat("s", 1, 1),
}


@pytest.mark.parametrize("script", CALLS)
async def test_a_call_whose_answer_was_lost_is_repeated_with_the_same_result(
    redis_server: RedisServer, script: str
) -> None:
    """The caller gets the answer it would have had, and the counters are those of one call."""
    found = []
    for lose in (False, True):
        ledger = await redis_ledger(redis_server)
        await ledger.begin(RUN, "", 10, "p")
        await ledger.announce(RUN, 0, 10)
        await ledger.claim(RUN, SEQS[:2], False)
        if lose:
            lose_the_first_answer(ledger, script)
        answer = await CALLS[script](ledger)
        now = await ledger.snapshot(RUN)
        counters = (now.published, now.sending, now.sent, now.failed, now.retried, now.total_time_us)
        found.append((answer, counters, await ledger.recount(RUN)))
        await ledger.close()
    assert found[0] == found[1]


async def test_a_claim_whose_answer_was_lost_is_still_ours(ledger: RedisLedger) -> None:
    """Nobody else has these messages, so they must be sent: ambiguous, never a duplicate to be dropped."""
    lose_the_first_answer(ledger, "claim")
    standing = await ledger.claim(RUN, SEQS[2:], False)
    assert standing.tolist() == [Standing.AMBIGUOUS] * 2
    now = await ledger.snapshot(RUN)
    assert (now.sending, now.ambiguous) == (4, 2)


async def test_scripts_survive_a_restart_of_redis() -> None:
    """A Redis that forgot its scripts is told them again; with the append-only file it knows all counts."""
    with RedisServer() as server:
        settings = load_settings(redis_host=server.host, redis_port=server.port)
        ledger = RedisLedger(await connect_redis(settings, 10))
        await ledger.begin(RUN, "", 4, "p")
        await ledger.announce(RUN, 0, 4)
        await ledger.claim(RUN, SEQS[:2], False)
        server.kill()
        server.start()
        await ledger.settle(RUN, SETTLE)
        now = await ledger.snapshot(RUN)
        assert (now.published, now.queued, now.sending, now.sent) == (4, 3, 0, 1)
        await ledger.close()


async def test_a_wrong_password_is_refused_at_once() -> None:
    """It is not tried again: the timeout of an hour would end the test."""
    with RedisServer(password="right") as server:
        for password in ("wrong", None):
            settings = load_settings(redis_host=server.host, redis_port=server.port, redis_password=password)
            with pytest.raises(Refused, match="REDIS_PASSWORD"):
                await connect_redis(settings, 3600)
        right = load_settings(redis_host=server.host, redis_port=server.port, redis_password="right")
        await (await connect_redis(right, 10)).aclose()


async def test_no_server_is_unavailable(unused_tcp_port: int) -> None:
    """Nobody listens: the error says where it was looked for."""
    settings = load_settings(redis_host="127.0.0.1", redis_port=unused_tcp_port)
    with pytest.raises(Unavailable, match=f"127.0.0.1:{unused_tcp_port}"):
        await connect_redis(settings, 0.3)


async def test_a_settled_run_is_forgotten_in_time_and_one_that_goes_on_is_not(
    redis_server: RedisServer,
) -> None:
    """All keys of a settled run expire, the totals stay; more messages announced keep a run alive."""
    ledger = await redis_ledger(redis_server, run_ttl_s=1)
    for run in ("over", "goes-on"):
        await ledger.begin(run, "", 2, "p")
        await ledger.announce(run, 0, 2)
        await ledger.claim(run, SEQS[:2], False)
        await ledger.settle(run, Outcomes(SEQS[:2], np.full(2, Outcome.SENT, np.uint8), np.full(2, 5)))
    await ledger.announce("goes-on", 2, 1)
    await ledger.claim("over", SEQS[:2], True)  # delivered again after it was settled: that wakes no run

    async def only_one_is_left() -> bool:
        names = {str(key) for key in await ledger._redis.keys("sms:run:*")}
        return not any(":over" in name for name in names) and "b'sms:run:goes-on:states:0'" in names

    await eventually(only_one_is_left)
    assert (await ledger.snapshot()).sent == 4
    assert (await ledger.snapshot("goes-on")).queued == 1
    await ledger.close()


async def test_a_run_of_340_million_takes_two_bits_a_message(redis_server: RedisServer) -> None:
    """A piece of 131,072 messages takes no more than 41 kB, so 340 million take about 100 MB at most."""
    ledger = await redis_ledger(redis_server)
    every = np.arange(1 << 17)
    await ledger.announce("r", 0, every.size)
    await ledger.claim("r", every, False)
    taken = await ledger._redis.memory_usage("sms:run:r:states:0")
    assert taken is not None
    assert taken <= 41_100
    await ledger.close()
