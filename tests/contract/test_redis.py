"""What Redis alone can do wrong: answers that are lost, a wrong password, and what the ledger leaves there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from redis.exceptions import ConnectionError

from common.errors import Refused, Unavailable, UnknownRun
from common.keys import Keys
from common.ledger.pieces import PIECE_MESSAGES
from common.ledger.port import TIMING
from common.ledger.redis import RedisLedger
from common.ledger.redis.runs import LIMITS
from common.ledger.values import Outcomes, Standing
from common.messages import Outcome, Seqs
from common.redis import Client, connect_redis
from common.settings import Settings, load_settings
from tests.contract.benches import redis_ledger
from tests.servers import RedisServer
from tests.waiting import eventually

KEYS = Keys()

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


async def settled(ledger: RedisLedger, run: str, seqs: Seqs = SEQS) -> None:
    """A run, of which nobody announced anything, that is over: these messages are sent."""
    await ledger.claim(run, seqs, False)
    await ledger.settle(
        run, Outcomes(seqs, np.full(seqs.size, Outcome.SENT, np.uint8), np.full(seqs.size, 5))
    )


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


async def _canceled(ledger: RedisLedger) -> list[bool]:
    """Of four messages the first two are sending."""
    canceled: list[bool] = (await ledger.cancel(RUN, SEQS)).tolist()
    return canceled


async def _listed(ledger: RedisLedger) -> None:
    """Answers a time, which differs between two ledgers."""
    await ledger.heartbeat("s", 1, 1)


CALLS: dict[str, Callable[[RedisLedger], Awaitable[Any]]] = {
    "begin": lambda ledger: ledger.begin("another", "", 5, "p"),
    "leave": lambda ledger: ledger.leave(RUN, "p"),
    "resume": lambda ledger: ledger.resume(RUN, "p"),
    "announce": lambda ledger: ledger.announce(RUN, 10, 5),
    "confirm": lambda ledger: ledger.confirm(RUN, 3),
    "close_run": lambda ledger: ledger.close_run(RUN),
    "runs": lambda ledger: ledger.runs(),
    "newest": lambda ledger: ledger.runs(5),
    "settle": lambda ledger: ledger.settle(RUN, SETTLE, "s"),
    "release": lambda ledger: ledger.release(RUN, SEQS[:2]),
    "cancel": lambda ledger: _canceled(ledger),
    "heartbeat": lambda ledger: _listed(ledger),
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
    claim = await ledger.claim(RUN, SEQS[2:], False)
    assert claim.standing.tolist() == [Standing.AMBIGUOUS] * 2
    now = await ledger.snapshot(RUN)
    assert (now.sending, now.ambiguous) == (4, 2)


async def test_a_flag_whose_settles_answer_was_lost_counts_once(ledger: RedisLedger) -> None:
    """The repeat finds the message settled, so it adds nothing to ambiguous either."""
    lose_the_first_answer(ledger, "settle")
    await ledger.settle(RUN, replace(SETTLE, ambiguous=np.array([True, True])))
    now = await ledger.snapshot(RUN)
    assert (now.sent, now.retried, now.ambiguous) == (1, 1, 2)


async def test_a_cancel_whose_answer_was_lost_has_the_same_answer(ledger: RedisLedger) -> None:
    """What was canceled by the first try is counted once; what a sender took before is not canceled."""
    await ledger.settle(RUN, replace(SETTLE, outcomes=np.full(2, Outcome.SENT, np.uint8)))
    await ledger.claim(RUN, SEQS[2:3], False)
    border = np.array([PIECE_MESSAGES - 1, PIECE_MESSAGES])
    lose_the_first_answer(ledger, "cancel")
    canceled = await ledger.cancel(RUN, np.concatenate([SEQS, border]))
    assert canceled.tolist() == [False, False, False, True, True, True]
    now = await ledger.snapshot(RUN)
    assert (now.published, now.sending, now.sent, now.failed, now.ambiguous) == (12, 1, 2, 3, 0)
    assert sum(now.latency.values()) == 2
    assert await ledger.recount(RUN) == {"published": 12, "sending": 1, "sent": 2, "failed": 3}


async def test_a_forget_whose_answer_was_lost_is_done(redis_server: RedisServer) -> None:
    """Its repeat finds the run gone by its own doing and says nothing; a second call finds no such run."""
    ledger = await redis_ledger(redis_server)
    await ledger.begin(RUN, "", SEQS.size, "p")
    await settled(ledger, RUN)
    lose_the_first_answer(ledger, "forget")
    await ledger.forget(RUN)
    with pytest.raises(UnknownRun):
        await ledger.forget(RUN)
    await ledger.close()


async def test_a_forgotten_run_leaves_a_mark_for_as_long_as_a_settled_run_is_kept(
    redis_server: RedisServer,
) -> None:
    """Nothing else of it stays, in any piece, and the mark goes when it has begun again."""
    ledger = await redis_ledger(redis_server, run_ttl_s=500)
    border = 1 << 17
    await ledger.begin(RUN, "", 3, "p")
    await settled(ledger, RUN, np.array([0, border, 3 * border]))
    await ledger.mark_replayed(RUN, np.array([0, 3 * border]))
    await ledger.forget(RUN)
    assert await ledger._redis.keys("sms:run:*") == [b"sms:run:lost-answers:forgotten"]
    assert await ledger._redis.zcard(KEYS.runs) == 0
    assert 0 < await ledger._redis.ttl("sms:run:lost-answers:forgotten") <= 500
    await ledger.begin(RUN, "", 1, "p")
    assert await ledger._redis.keys("sms:run:*") == [b"sms:run:lost-answers"]
    await ledger.close()


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
    await ledger.begin("cut", "", 2, "p")
    await ledger.close_run("cut")  # nothing of it was announced, so it is over
    await ledger.announce("goes-on", 2, 1)
    await ledger.claim("over", SEQS[:2], True)  # delivered again after it was settled: that wakes no run

    async def only_one_is_left() -> bool:
        names = {str(key) for key in await ledger._redis.keys("sms:run:*")}
        gone = not any(over in name for name in names for over in (":over", ":cut"))
        return gone and "b'sms:run:goes-on:states:0'" in names

    await eventually(only_one_is_left)
    assert await ledger._redis.zcard(KEYS.runs) == 3
    assert await ledger.runs() == ["goes-on"]
    assert await ledger._redis.zcard(KEYS.runs) == 1
    assert (await ledger.snapshot()).sent == 4
    assert (await ledger.snapshot("goes-on")).queued == 1
    await ledger.close()


async def test_an_announcement_that_is_repeated_late_wakes_no_run(redis_server: RedisServer) -> None:
    """Its answer was lost, and all of it is settled meanwhile: the run still expires."""
    ledger = await redis_ledger(redis_server, run_ttl_s=500)
    await ledger.begin(RUN, "", 4, "p")
    await ledger.announce(RUN, 0, 4)
    await settled(ledger, RUN)
    await ledger.announce(RUN, 0, 4)
    assert 0 < await ledger._redis.ttl(KEYS.run(RUN)) <= 500
    await ledger.announce(RUN, 4, 1)
    assert await ledger._redis.ttl(KEYS.run(RUN)) == -1
    await ledger.close()


async def test_a_run_that_ends_by_a_cancel_is_forgotten_in_time(redis_server: RedisServer) -> None:
    """All its keys expire, in any piece, also those that a late cancel adds; one with a message left stays."""
    ledger = await redis_ledger(redis_server, run_ttl_s=500)

    async def lives_for_s() -> set[int]:
        return {await ledger._redis.ttl(key) for key in await ledger._redis.keys(f"{KEYS.run(RUN)}*")}

    border = PIECE_MESSAGES
    await ledger.begin(RUN, "", 0, "p")
    await ledger.announce(RUN, 0, 3)
    await ledger.claim(RUN, SEQS[:1], False)
    await ledger.cancel(RUN, SEQS[1:3])
    assert await lives_for_s() == {-1}
    await ledger.settle(RUN, Outcomes(SEQS[:1], np.full(1, Outcome.SENT, np.uint8), np.full(1, 5)))
    assert all(0 < ttl <= 500 for ttl in await lives_for_s())
    await ledger.cancel(RUN, np.array([3 * border, border]))
    assert len(await ledger._redis.keys(f"{KEYS.run(RUN)}:*")) == 2 + 3 + 3 + 2, (
        "histogram, pieces, states, canceled, unannounced"
    )
    assert all(0 < ttl <= 500 for ttl in await lives_for_s())
    assert (await ledger.cancel(RUN, np.array([0, border]))).tolist() == [False, True]
    assert all(0 < ttl <= 500 for ttl in await lives_for_s())
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


@pytest.mark.parametrize("count", [1_000, 20_000, PIECE_MESSAGES])
async def test_states_take_little_more_than_two_bits_a_message(ledger: RedisLedger, count: int) -> None:
    """A string that grows is given up to twice the room it needs; states are not, in runs of any size."""
    await ledger.begin("r", "", count, "p")
    for first in range(0, count, 512):
        batch = np.arange(first, min(first + 512, count))
        await ledger.announce("r", first, batch.size)
        await ledger.claim("r", batch, False)
    taken = await ledger._redis.memory_usage("sms:run:r:states:0")
    assert taken is not None
    assert count / 4 <= taken < 1.3 * count / 4 + 100
    assert (await ledger.recount("r"))["sending"] == count


async def test_a_stray_seq_makes_no_room_for_others(ledger: RedisLedger) -> None:
    """Nobody announced it, and nobody knows that more will come."""
    await ledger.claim("r", np.array([20_000]), False)
    assert (await ledger._redis.memory_usage("sms:run:r:states:0") or 0) < 12_000
    assert (await ledger.recount("r"))["sending"] == 1


async def test_a_producer_that_was_silent_for_long_publishes_no_more(ledger: RedisLedger) -> None:
    """What is asked is Redis's clock, so that a dead producer is seen to be one from everywhere."""
    assert (await ledger.publication(RUN)).publishing
    seen_us = int(await ledger._redis.hget(KEYS.run(RUN), "producer_seen_us") or 0)
    await ledger._redis.hset(
        KEYS.run(RUN), "producer_seen_us", str(seen_us - int(TIMING.producer_silence_s * 1_000_000))
    )
    assert not (await ledger.publication(RUN)).publishing


async def test_senders_that_are_gone_leave_no_names_behind(redis_server: RedisServer) -> None:
    """A heartbeat takes off the list whoever was silent for as long as a settled run is kept, and nobody else."""
    ledger = await redis_ledger(redis_server, run_ttl_s=500)
    for sender in ("gone", "silent"):
        await ledger.heartbeat(sender, 1, 0)
    for sender, silent_s in (("gone", 501), ("silent", 400)):
        await ledger._redis.zincrby(KEYS.senders, -silent_s * 1_000_000, sender)
    for _ in range(2):
        await ledger.heartbeat("alive", 1, 0)
        assert await ledger._redis.zrange(KEYS.senders, 0, -1) == [b"silent", b"alive"]
    await ledger.close()


async def test_what_is_found_unsettled_of_a_run_that_vanishes_is_no_guess(ledger: RedisLedger) -> None:
    """A run that is removed while it is read raises: its messages must not pass for queued ones."""
    await ledger.announce(RUN, 10, 3 << 17)
    found = ledger.unsettled(RUN)
    assert (await anext(found)).size == 1 << 17
    await ledger._redis.delete(KEYS.run(RUN))
    with pytest.raises(UnknownRun):
        await anext(found)


async def test_a_redis_that_is_out_of_memory_is_waited_for(
    ledger: RedisLedger, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """At maxmemory it refuses a change wholly; when there is room again, each call is carried out, once."""
    with redis_server._client() as operator:
        operator.config_set("maxmemory", 1)
        try:
            calls = asyncio.gather(
                ledger.announce(RUN, 10, 5),
                ledger.claim(RUN, SEQS[2:], False),
                ledger.settle(
                    RUN, Outcomes(SEQS[:2], np.full(2, Outcome.SENT, np.uint8), np.zeros(2, np.int64)), "s"
                ),
                ledger.heartbeat("s", 1, 1),
                ledger.reject(1),
            )
            refused = "ledger_unreachable"
            await eventually(lambda: refused in [r.message for r in caplog.records])
            assert await ledger.recount(RUN) == {"published": 10, "sending": 2, "sent": 0, "failed": 0}
            assert (await ledger.snapshot(RUN)).sending == 2, "somebody must be able to look"
            assert (await ledger.publication(RUN)).announced == 10
            assert (await ledger.states(RUN, SEQS)).tolist() == [1, 1, 0, 0]
        finally:
            operator.config_set("maxmemory", 0)
    await calls
    assert await ledger.recount(RUN) == {"published": 15, "sending": 2, "sent": 2, "failed": 0}
    now = await ledger.snapshot(RUN)
    assert (now.published, now.sending, now.sent) == (15, 2, 2)


async def test_a_connection_that_was_reset_is_a_lost_answer() -> None:
    """So is uvloop's RuntimeError meant, which redis-py lets through; other ones are bugs and show themselves."""
    said = [RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")]

    async def once_reset() -> str:
        if said:
            raise said.pop()
        return "answer"

    assert await Client(Settings()).until_answered(once_reset) == "answer"
    said.append(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        await Client(Settings()).until_answered(once_reset)


async def many_runs(ledger: RedisLedger, runs: int) -> list[str]:
    """So many runs, oldest first, that began at the same moment by tens; nothing is known of them but that."""
    names = [f"run-{number:06}" for number in range(runs)]
    pipe = ledger._redis.pipeline(transaction=False)
    for number, name in enumerate(names):
        pipe.hset(KEYS.run(name), mapping={"started_us": number // 10, "producer": "p", "total": 1})
        pipe.zadd(KEYS.runs, {name: number // 10})
    await pipe.execute()
    return names


async def calls_of(ledger: RedisLedger, ask: Awaitable[Any]) -> dict[str, int]:
    """How many of each command Redis carried out meanwhile, those of scripts too."""
    await ledger._redis.config_resetstat()
    await ask
    calls = await ledger._redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in calls.items()}


async def test_the_newest_of_many_runs_cost_what_they_are_and_no_more(redis_server: RedisServer) -> None:
    """One name looked at for each that was asked for, and a few aside, however many runs there are."""
    ledger = await redis_ledger(redis_server)
    names = await many_runs(ledger, 5_000)
    for newest in (1, 50):
        assert await ledger.runs(newest) == names[-newest:]
        calls = await calls_of(ledger, ledger.runs(newest))
        assert newest < calls["exists"] <= newest + 2 * LIMITS.expired_names
        assert calls["zrevrangebyscore"] == calls["zscan"] == 1
    await ledger.close()


async def test_no_call_looks_at_all_of_many_runs(redis_server: RedisServer) -> None:
    """They are listed in pages, each by a call of its own; all of them, in their order, once each."""
    ledger = await redis_ledger(redis_server)
    names = await many_runs(ledger, 5_000)
    assert await ledger.runs() == names
    calls = await calls_of(ledger, ledger.runs())
    assert calls["evalsha"] == calls["zscan"] >= 5_000 // (2 * LIMITS.names)
    await ledger.close()


async def test_open_runs_cost_nothing_for_those_that_are_over(redis_server: RedisServer) -> None:
    """Only the names of those that are not over are looked at; that of an expired one is then gone."""
    ledger = await redis_ledger(redis_server)
    await many_runs(ledger, 500)
    for run in ("open", "gone"):
        await ledger.begin(run, "", 1, "p")
    await ledger._redis.delete(KEYS.run("gone"))
    assert (await calls_of(ledger, ledger.open_runs()))["exists"] == 2
    assert await ledger.open_runs() == ["open"]
    assert await ledger._redis.zrange(KEYS.open_runs, 0, -1) == [b"open"]
    await ledger.close()


@pytest.mark.parametrize("survivors", [0, 10])
async def test_names_of_expired_runs_go_by_and_by(redis_server: RedisServer, survivors: int) -> None:
    """Who asks for the newest, again and again, finds them all, wherever they stand among those that live on."""
    ledger = await redis_ledger(redis_server)
    names = await many_runs(ledger, 2_000)
    kept = names[:: 2_000 // survivors] if survivors else []
    await ledger._redis.delete(*(KEYS.run(name) for name in set(names) - set(kept)))
    assert await ledger.runs(3) == kept[-3:]
    for _ in range(2 * 2_000 // LIMITS.expired_names):
        await ledger.runs(1)
    assert await ledger._redis.zcard(KEYS.runs) == survivors
    await ledger.close()


@pytest.mark.parametrize("runs", [1, 50], ids=["one run", "a run each"])
async def test_seqs_far_apart_of_runs_that_nobody_announced_take_little_room(
    ledger: RedisLedger, runs: int
) -> None:
    """One body of 70 bytes took 48 KiB, for a week. Now the run itself takes most."""
    size, bodies = PIECE_MESSAGES, 100
    before = (await ledger._redis.info("memory"))["used_memory"]
    for k in range(bodies):
        seq = np.array([(k // runs) * size + size - 1])
        await ledger.claim(f"foreign-{k % runs}", seq, False)
        await ledger.settle(
            f"foreign-{k % runs}", Outcomes(seq, np.full(1, Outcome.SENT, np.uint8), np.full(1, 5))
        )
    taken = (await ledger._redis.info("memory"))["used_memory"] - before
    assert taken / bodies < 2_000
