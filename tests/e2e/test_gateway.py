"""The gateway as a process, over RabbitMQ and Redis: what it answered 202 is kept, whatever is restarted."""

import asyncio
import secrets
import signal
from collections.abc import Iterable

import aiohttp
import numpy as np
import pytest

from common.messages import State
from tests.e2e.pipeline import Pipeline
from tests.e2e.processes import Launched
from tests.gateway.posting import post_all
from tests.runners import free_port
from tests.waiting import eventually

KEY = "a-key-for-tests-only"
WORKERS = 48
QUICK = {"MEAN_PROCESSING_TIME": 0.02, "FAILURE_RATE": 0.1, "SENDER_CONCURRENCY": 500}


class Gateway:
    """A gateway at a port of its own, which it keeps over restarts."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.port = free_port()
        self.process: Launched

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, **env: object) -> None:
        """Starts it and returns once it answers."""
        self.process = self._pipeline.start(
            "smsim", "gateway", "--port", self.port, GATEWAY_API_KEY=KEY, **env
        )
        await eventually(
            lambda: self.process.logged("gateway_listening") or not self.process.runs,
            describe="the gateway listens",
        )
        assert self.process.runs, self.process.stderr

    def client(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(self.url, headers={"Authorization": f"Bearer {KEY}"})


@pytest.mark.timeout(600)
@pytest.mark.parametrize("messages", [3_000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_everything_is_restarted_while_messages_come_in(pipeline: Pipeline, messages: int) -> None:
    """Sender killed, gateway stopped, gateway killed, in mid-traffic: each key gives one message, each message ends as
    sent or failed, and every run ends with sent + failed = published.
    """
    gateway = Gateway(pipeline)
    await gateway.start()
    first, second = pipeline.sender(**QUICK), pipeline.sender(**QUICK)
    uuids: dict[int, str] = {}

    async def reached(share: float) -> None:
        await eventually(lambda: len(uuids) >= share * messages, 120, f"{share:.0%} are accepted")

    async with gateway.client() as http, asyncio.TaskGroup() as tasks:
        tasks.create_task(post_all(http, messages, WORKERS, uuids))
        await reached(0.15)
        first.signal(signal.SIGKILL)
        third = pipeline.sender(**QUICK)
        await reached(0.3)
        gateway.process.signal(signal.SIGTERM)
        assert await gateway.process.ended() == 0, gateway.process.stderr
        await gateway.start()
        await reached(0.5)
        second.signal(signal.SIGTERM)
        assert await second.ended() == 0
        await reached(0.6)
        gateway.process.signal(signal.SIGKILL)
        await gateway.start()

    assert len(uuids) == len(set(uuids.values())) == messages
    runs = {uuid.partition(".")[0] for uuid in uuids.values()}
    assert len(runs) == 3  # one for each time that the gateway was started

    await eventually(
        lambda: settled(pipeline, uuids.values()), 120, "every message that was accepted is settled"
    )

    async def over(runs: list[str]) -> bool:
        for run in runs:
            now = await pipeline.ledger.snapshot(run)
            assert (now.published, now.total) == (now.settled, now.settled), (run, now)
        return True

    # What the killed gateway had accepted and not published is relayed by the next one once its lease has ended.
    # The last one's own session stays open until it stops.
    *former, last = sorted(runs)
    await eventually(lambda: over(former), 120, "the runs of those that stopped and died are over")
    gateway.process.signal(signal.SIGTERM)
    assert await gateway.process.ended() == 0
    await eventually(lambda: over([last]), describe="the last run is over")
    third.signal(signal.SIGTERM)
    assert await third.ended() == 0


async def test_texts_that_fill_redis_do_not_stop_an_urgent_message(mortal_pipeline: Pipeline) -> None:
    """Batches of several times what Redis holds are accepted and sent; then an urgent message goes its usual way."""
    redis = mortal_pipeline.redis
    most = redis.info("memory")["used_memory"] + 12 * 2**20
    redis.config_set("maxmemory", most)
    gateway = Gateway(mortal_pipeline)
    await gateway.start()
    sender = mortal_pipeline.sender(**QUICK | {"FAILURE_RATE": 0})
    accepted: list[str] = []

    async def post(http: aiohttp.ClientSession) -> bool:
        items = [{"number": "+541166587382", "text": secrets.token_hex(800)} for _ in range(1_000)]
        async with http.post("/sms/batch", json=items) as answer:
            if answer.status == 202:
                accepted.extend((await answer.json())["ids"])
            assert answer.status in (202, 503), await answer.text()  # 503: many wait for RabbitMQ
            return answer.status == 202

    async with gateway.client() as http:
        for _ in range(30):  # 0.9 MB each
            await eventually(lambda: post(http), 60, "a batch is accepted")
        await eventually(lambda: settled(mortal_pipeline, accepted), 60, "all batches are settled")
        urgent = {"number": "+541166587382", "text": "fire", "priority": "urgent"}
        async with http.post("/sms", json=urgent) as answer:
            assert answer.status == 202, await answer.text()
            accepted.append((await answer.json())["uuid"])
        await eventually(lambda: settled(mortal_pipeline, accepted[-1:]), 10, "the urgent message is settled")
        async with http.get(f"/sms/{accepted[-1]}") as answer:
            assert (await answer.json())["text"] == "fire"
        async with http.get(f"/sms/{accepted[0]}") as answer:
            oldest = await answer.json()
            assert (oldest["status"], oldest["text"]) == ("sent", None)
    assert int(redis.hget("sms:outbox", "kept_bytes") or 0) <= 0.4 * most
    assert "errorstat_OOM" not in redis.info("errorstats")
    redis.config_set("maxmemory", 0)
    for process in (gateway.process, sender):
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0


async def test_the_broker_is_killed_under_the_gateway(mortal_pipeline: Pipeline) -> None:
    """RabbitMQ dies: messages are accepted all the same, singly and as a batch; it is back: each of them is settled."""
    gateway = Gateway(mortal_pipeline)
    await gateway.start()
    sender = mortal_pipeline.sender(**QUICK)
    accepted: list[str] = []
    item = {"number": "+541166587382", "text": "hello"}

    async def post(http: aiohttp.ClientSession) -> None:
        async with http.post("/sms", json=item) as answer:
            assert answer.status == 202, await answer.text()
            accepted.append((await answer.json())["uuid"])

    async with gateway.client() as http:
        await post(http)
        await asyncio.to_thread(mortal_pipeline.rabbit.kill)
        for _ in range(20):
            await post(http)
        async with http.post("/sms/batch", json=[item] * 2_000) as answer:
            assert answer.status == 202, await answer.text()
            accepted += (await answer.json())["ids"]
        await asyncio.to_thread(mortal_pipeline.rabbit.start)
        await eventually(lambda: settled(mortal_pipeline, accepted), 120, "all is settled")
    gateway.process.signal(signal.SIGTERM)
    assert await gateway.process.ended() == 0
    sender.signal(signal.SIGTERM)
    assert await sender.ended() == 0
    total = await mortal_pipeline.ledger.snapshot()
    assert total.published == total.settled == len(accepted) == 2_021


async def settled(pipeline: Pipeline, uuids: Iterable[str]) -> bool:
    """Whether each message is sent or failed."""
    by_run: dict[str, list[int]] = {}
    for uuid in uuids:
        run, _, seq = uuid.partition(".")
        by_run.setdefault(run, []).append(int(seq))
    for run, seqs in by_run.items():
        states = await pipeline.ledger.states(run, np.array(seqs, np.int64))
        assert bool((states >= State.SENT).all()), (run, np.bincount(states))
    return True


async def test_mistakes_are_one_line(pipeline: Pipeline) -> None:
    """Authentication off and not on loopback, a weak key, a port that is taken: one line each, and the exit code."""
    for env, code, says in (
        ({"GATEWAY_AUTH": "false", "GATEWAY_HOST": "0.0.0.0"}, 2, "GATEWAY_AUTH=false"),
        ({"GATEWAY_API_KEY": "short"}, 2, "GATEWAY_API_KEY"),
        ({"GATEWAY_PORT": pipeline.redis_server.port, "GATEWAY_HOST": "127.0.0.1"}, 1, "can't listen"),
    ):
        process = pipeline.start("smsim", "gateway", **{"GATEWAY_API_KEY": KEY, **env})
        assert await process.ended() == code, process.stderr
        (line,) = process.stderr.strip().splitlines()
        assert says in line
