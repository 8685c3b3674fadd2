"""A peer of the benchmark, measured on real servers: it does its work, and what does not add up gives no figure."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from studies.bench.peers.catalogue import PEERS, PLAIN_PIKA
from studies.bench.peers.measure import PeerMeasurement
from studies.bench.rounds import Rounds, Scenario
from studies.process import BenchmarkFailed
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
    return Servers(rabbit_server, redis_server)


async def test_a_peer_is_measured_at_each_work(servers: Servers, tmp_path: Path) -> None:
    """Every message is published, consumed and counted once, and time and cost are more than nothing."""
    measurement = PeerMeasurement(PEER, servers, tmp_path, {})
    found = [
        *await measurement.publish_then_consume(MESSAGES),
        *await measurement.both_at_once(MESSAGES),
    ]
    assert [one.work for one in found] == ["publish", "consume", "both at once"]
    assert {(one.who, one.messages) for one in found} == {(PLAIN_PIKA, MESSAGES)}
    assert all(one.elapsed_s > 0 for one in found)
    assert set(found[-1].cpu_s) == {"producer", "sender", "rabbitmq", "redis"}


async def test_a_peer_that_cannot_be_started_says_why(servers: Servers, tmp_path: Path) -> None:
    """What is recorded is its side and its last line, without the paths that Python puts into it."""
    broken, rounds = replace(PEER, module="nosuch"), Rounds()
    measurement = PeerMeasurement(broken, servers, tmp_path, {})
    await rounds.add([Scenario(PEER.name, lambda: measurement.publish_then_consume(MESSAGES))], "round 1")
    python = Path(sys.executable).name
    assert rounds.failures == {
        PEER.name: f"its producer ended before its time: {python}: No module named studies.bench.peers.nosuch"
    }


async def test_a_message_left_over_fails_it(servers: Servers, tmp_path: Path) -> None:
    """A worker that counts what it does not ack would look faster than it is."""
    fake = FakeServers(servers.rabbit, servers.redis)
    with pytest.raises(BenchmarkFailed, match="does not add up: 100 of 100 sent, 1 left"):
        await PeerMeasurement(PEER, fake, tmp_path, {}).publish_then_consume(MESSAGES)
