"""A peer of `make bench`, measured on real servers: it does its work, and if it does not add up it has no figure."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from common.ledger.memory import MemoryLedger
from studies.bench.measure import both_at_once, publish_then_consume
from studies.bench.peers.catalogue import PEERS, PLAIN_PIKA
from studies.bench.peers.measure import opened
from studies.bench.rounds import Rounds
from studies.bench.works import both_works
from studies.process import StudyFailed
from studies.servers import Servers
from tests.servers import RabbitServer, RedisServer

PEER = next(peer for peer in PEERS if peer.name == PLAIN_PIKA)
MESSAGES = 100


class FakeServers(Servers):
    """Finds a message left in the queue that the worker has drained."""

    def waiting(self, *queues: str) -> int:
        return super().waiting(*queues) or 1


@pytest.fixture
def servers(rabbit_server: RabbitServer, redis_server: RedisServer) -> Servers:
    return Servers(rabbit_server, redis_server, MemoryLedger())


async def test_a_peer_is_measured_at_each_work(servers: Servers) -> None:
    """Every message is published, consumed and counted once, and time and cost are more than nothing."""
    peer = partial(opened, PEER, servers, {}, MESSAGES)
    found = [*await publish_then_consume(peer), *await both_at_once(peer)]
    assert [one.work.name for one in found] == ["publish", "consume", "both at once"]
    assert {(one.who, one.work.messages) for one in found} == {(PLAIN_PIKA, MESSAGES)}
    assert all(one.elapsed_s > 0 for one in found)
    assert set(found[-1].cpu_s) == {"producer", "sender", "rabbitmq", "redis"}


async def test_a_peer_that_cannot_be_started_says_why(servers: Servers) -> None:
    """Recorded are its side and its last line, without the paths that Python puts into it."""
    broken, rounds = replace(PEER, module="nosuch"), Rounds()
    await rounds.add(both_works(PEER.name, partial(opened, broken, servers, {}, MESSAGES)), "round 1")
    python = Path(sys.executable).name
    assert rounds.failures == {
        PEER.name: f"its producer ended too early: {python}: No module named studies.bench.peers.nosuch"
    }


async def test_a_message_left_over_fails_it(servers: Servers) -> None:
    """A worker that counts what it does not ack would look faster than it is."""
    fake = FakeServers(servers.rabbit, servers.redis, servers.ledger)
    with pytest.raises(StudyFailed, match="does not add up: 100 of 100 sent, 1 left"):
        await publish_then_consume(partial(opened, PEER, fake, {}, MESSAGES))
