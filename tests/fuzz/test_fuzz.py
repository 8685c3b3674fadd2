"""A real sender on a real queue full of random and mutated bodies.

`make fuzz` sets FUZZ_BODIES=100000. The default is smaller, for `make test`.
"""

import asyncio
import os
import signal
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pika
import pytest

from common.broker.rabbitmq.link import parameters
from common.broker.rabbitmq.publisher import Publisher
from common.errors import BadBody
from common.messages import State, decode_batch, is_e164
from common.settings import load_settings
from tests.e2e.pipeline import Pipeline
from tests.fuzz.bodies import bodies
from tests.waiting import eventually

BODIES = int(os.environ.get("FUZZ_BODIES") or 5_000)
SEED = 20261121
# Generous: it only ends a hang.
DEADLINE_S = 60 + BODIES / 100
UNCONFIRMED = 500


@dataclass
class Expected:
    """The rejected bodies, and the possible states of each message of the others."""

    rejected: Counter[bytes] = field(default_factory=Counter)
    runs: defaultdict[str, defaultdict[int, set[State]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )

    def add(self, body: bytes) -> None:
        try:
            batch, _ = decode_batch(body)
        except BadBody:
            self.rejected[body] += 1
            return
        for message in batch.messages:
            # Where copies of a message differ in their numbers, the first one claimed decides.
            state = State.SENT if is_e164(message.to) else State.FAILED
            self.runs[batch.run][message.seq].add(state)

    @property
    def messages(self) -> int:
        return sum(len(seqs) for seqs in self.runs.values())


@pytest.mark.timeout(DEADLINE_S + 120)
async def test_every_body_is_rejected_or_settled(pipeline: Pipeline) -> None:
    """Each body is in the rejected queue or its messages are settled. None crashes the sender."""
    expected = Expected()
    for body in bodies(SEED, BODIES):
        expected.add(body)
    sender = pipeline.sender(
        MEAN_PROCESSING_TIME=0, FAILURE_RATE=0, LOG_LEVEL="ERROR", SENDER_CONCURRENCY=100_000
    )
    await _publish(pipeline)

    async def done() -> bool:
        if not sender.runs:
            return True
        now = await pipeline.ledger.snapshot()
        assert (now.rejected, now.settled) == (expected.rejected.total(), expected.messages)
        return not pipeline.depths()[pipeline.queue]

    await eventually(done, DEADLINE_S, "all bodies are accounted for")
    assert sender.runs, sender.stderr
    sender.signal(signal.SIGTERM)
    assert await sender.ended() == 0
    assert sender.stdout + sender.stderr == ""
    assert {name: depth for name, depth in pipeline.depths().items() if depth} == {
        f"{pipeline.queue}.rejected": expected.rejected.total()
    }
    assert await asyncio.to_thread(_rejected, pipeline, expected.rejected.total()) == expected.rejected
    assert set(await pipeline.ledger.runs()) == expected.runs.keys()
    for run, seqs in expected.runs.items():
        await _assert_settled(pipeline, run, seqs)


async def _assert_settled(pipeline: Pipeline, run: str, seqs: dict[int, set[State]]) -> None:
    now = await pipeline.ledger.snapshot(run)
    assert (now.published, now.queued, now.sending, now.settled) == (len(seqs), 0, 0, len(seqs)), run
    assert await pipeline.ledger.recount(run) == {
        "published": len(seqs),
        "sending": 0,
        "sent": now.sent,
        "failed": now.failed,
    }, run
    states = await pipeline.ledger.states(run, np.array(list(seqs)))
    for (seq, allowed), state in zip(seqs.items(), states.tolist(), strict=True):
        assert state in allowed, f"{run}.{seq}"


async def _publish(pipeline: Pipeline) -> None:
    """Publishes all bodies with confirms. A body lost on the way would look like one that the sender lost."""
    server = load_settings(rabbitmq_host=pipeline.rabbit.host, rabbitmq_port=pipeline.rabbit.port)
    publisher = Publisher(parameters(server, "fuzz"), pipeline.topology.standing)
    await publisher.start()
    window: deque[asyncio.Future[None]] = deque()
    for body in bodies(SEED, BODIES):
        window.append(publisher.publish(pipeline.queue, body, pika.BasicProperties(delivery_mode=2)))
        if len(window) == UNCONFIRMED:
            await window.popleft()
    await asyncio.gather(*window)
    await publisher.stop()


def _rejected(pipeline: Pipeline, count: int) -> Counter[bytes]:
    """The bodies of the rejected queue, which has `count`."""
    channel: Any = pipeline.channel()
    found: Counter[bytes] = Counter()
    for _, properties, body in channel.consume(
        f"{pipeline.queue}.rejected", auto_ack=True, inactivity_timeout=60
    ):
        if body is None:
            break
        assert properties.headers["x-reason"]
        found[body] += 1
        if found.total() == count:
            break
    channel.connection.close()
    return found
