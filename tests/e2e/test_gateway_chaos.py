"""Two gateways under load while every process is killed in turn: each 202 ends, and each key gave one message."""

import asyncio
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
import pytest

from common.messages import State
from tests.e2e.pipeline import Pipeline
from tests.e2e.test_gateway import KEY, QUICK, Gateway
from tests.waiting import eventually

NUMBER = "+541166587382"
WORKERS = 16
BATCH = 20
LEASE_S = 10.0


@dataclass
class Load:
    """Clients that post to any gateway that answers, each message with a key of its own, until they are stopped.

    Attributes:
        gateways: Their addresses.
        accepted: The ids that each key was answered with, all of them.
        canceled: The ids of messages that a client was told are canceled.
    """

    gateways: list[str]
    accepted: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)
    canceled: set[str] = field(default_factory=set)
    _stops: asyncio.Event = field(default_factory=asyncio.Event)
    _keys: "itertools.count[int]" = field(default_factory=itertools.count)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Posts until left; then each key that was begun is answered 202."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            timeout = aiohttp.ClientTimeout(total=5)
            headers = {"Authorization": f"Bearer {KEY}"}
            clients = [
                await stack.enter_async_context(aiohttp.ClientSession(url, headers=headers, timeout=timeout))
                for url in self.gateways
            ]
            for worker in range(WORKERS):
                tasks.create_task(self._work(clients, worker))
            try:
                yield
            finally:
                self._stops.set()

    async def more(self, keys: int) -> None:
        """Returns once so many more keys are accepted."""
        wanted = len(self.accepted) + keys
        await eventually(lambda: len(self.accepted) >= wanted, 120, f"{keys} more keys are accepted")

    def ids(self) -> list[str]:
        """All messages that were accepted."""
        return [uuid for ids in self.accepted.values() for one in ids for uuid in one]

    async def _work(self, clients: list[aiohttp.ClientSession], worker: int) -> None:
        gateways = itertools.cycle(clients[worker % 2 :] + clients[: worker % 2])
        while not self._stops.is_set():
            k = next(self._keys)
            ids = await self._post(gateways, k)
            if k % 7 == 0:  # as a client does whose answer was lost
                assert await self._post(gateways, k) == ids
            if k % 10 == 0:
                await self._cancel(next(gateways), ids[0])

    async def _post(self, gateways: "itertools.cycle[aiohttp.ClientSession]", k: int) -> tuple[str, ...]:
        message = {"number": NUMBER, "text": f"message {k}"}
        is_batch = k % 25 == 0
        path, body = ("/sms/batch", [message] * BATCH) if is_batch else ("/sms", message)
        headers = {"Idempotency-Key": f"key-{k}"}
        for http in gateways:
            try:
                async with http.post(path, json=body, headers=headers) as answer:
                    if answer.status == 202:
                        said: Any = await answer.json()
                        ids = tuple(said["ids"]) if is_batch else (said["uuid"],)
                        self.accepted.setdefault(f"key-{k}", set()).add(ids)
                        return ids
                    assert answer.status in (429, 503), await answer.text()
            except (aiohttp.ClientError, ConnectionError, TimeoutError):
                pass
            await asyncio.sleep(0.05)  # a client's pause before it tries again
        raise AssertionError("there are always gateways")

    async def _cancel(self, http: aiohttp.ClientSession, uuid: str) -> None:
        try:
            async with http.delete(f"/sms/{uuid}") as answer:
                if answer.status == 200 and (await answer.json())["status"] == "canceled":
                    self.canceled.add(uuid)
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            pass


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("keys", "outage_s"), [(100, 3.0), pytest.param(1_000, 120.0, marks=pytest.mark.slow)]
)
async def test_each_202_ends_whatever_is_killed(
    mortal_pipeline: Pipeline, keys: int, outage_s: float
) -> None:
    """Sender, both gateways, RabbitMQ and Redis are killed in turn, RabbitMQ stays away for a while, and a gateway
    sleeps past its lease. Each message that was answered 202 is sent, failed or canceled at the end, each key gave one
    message, and no other message was published.
    """
    pipeline = mortal_pipeline
    first, second = Gateway(pipeline), Gateway(pipeline)
    await first.start()
    await second.start()
    sender = pipeline.sender(**QUICK)
    load = Load([first.url, second.url])
    async with load.running():
        await load.more(keys)
        sender.signal(signal.SIGKILL)
        sender = pipeline.sender(**QUICK)
        await load.more(keys)
        first.process.signal(signal.SIGKILL)
        await load.more(keys)
        await first.start()
        await asyncio.to_thread(pipeline.rabbit.kill)
        await load.more(keys)  # RabbitMQ is away
        await asyncio.sleep(outage_s)
        second.process.signal(signal.SIGKILL)  # with an outbox that nobody could publish
        await asyncio.to_thread(pipeline.rabbit.start)
        await second.start()
        await load.more(keys)
        await asyncio.to_thread(pipeline.redis_server.kill)
        await asyncio.to_thread(pipeline.redis_server.start)
        await load.more(keys)
        second.process.signal(signal.SIGSTOP)
        await asyncio.sleep(1.5 * LEASE_S)
        second.process.signal(signal.SIGCONT)
        await load.more(keys)
        first.process.signal(signal.SIGTERM)
        assert await first.process.ended() == 0, first.process.stderr
        await first.start()
        await load.more(keys)

    assert all(len(ids) == 1 for ids in load.accepted.values())
    ids = load.ids()
    assert len(ids) == len(set(ids))
    await eventually(lambda: _are_settled(pipeline, ids), 180, "each message that was accepted has ended")
    total = await pipeline.ledger.snapshot()
    assert (total.published, total.settled) == (len(ids), len(ids))
    assert total.canceled >= len(load.canceled)  # some were canceled by requests whose answer was lost
    for uuid in load.canceled:
        run, _, seq = uuid.partition(".")
        assert (await pipeline.ledger.canceled(run, np.array([int(seq)]))).all()
    for gateway in (first, second):
        gateway.process.signal(signal.SIGTERM)
        assert await gateway.process.ended() == 0, gateway.process.stderr
    await eventually(lambda: _outboxes_are_empty(pipeline), describe="nothing is left in an outbox")
    sender.signal(signal.SIGTERM)
    assert await sender.ended() == 0


async def _are_settled(pipeline: Pipeline, ids: list[str]) -> bool:
    by_run: dict[str, list[int]] = {}
    for uuid in ids:
        run, _, seq = uuid.partition(".")
        by_run.setdefault(run, []).append(int(seq))
    for run, seqs in by_run.items():
        states = await pipeline.ledger.states(run, np.array(seqs, np.int64))
        assert bool((states >= State.SENT).all()), (run, Counter(states.tolist()))
    return True


async def _outboxes_are_empty(pipeline: Pipeline) -> bool:
    counts = pipeline.hash("sms:outbox")
    return counts["messages"] == counts["bytes"] == 0
