"""Three RabbitMQ nodes: the death of the queue's leader in mid-run loses nothing."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.docker.stack import Stack
from tests.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

NODES = ("rabbitmq", "rabbitmq2", "rabbitmq3")
MESSAGES = 6_000


@pytest.fixture(scope="module")
def cluster(image: str) -> Iterator[Stack]:
    stack = Stack("cluster", MEAN_PROCESSING_TIME=0.2, SENDER_CONCURRENCY=100)
    try:
        stack.up(3)
        yield stack
    finally:
        stack.close()


async def test_the_queue_has_a_copy_on_each_node(cluster: Stack) -> None:
    """Before anybody dies, once a sender has declared it: a container that runs need not have come so far."""
    await eventually(lambda: len(queue(cluster).get("members", ())) == 3, 60)


async def test_the_leader_dies_in_mid_run(cluster: Stack) -> None:
    """Its container is killed; the senders go on with the other nodes, and sent + failed = published."""
    producing = ("run", "--rm", "-T", "producer", "--num-messages", str(MESSAGES), "--run", "leaderless")
    cluster.compose(*producing)
    await eventually(lambda: cluster.statistics("leaderless")["sent"] > 100, 60)
    leader = str(queue(cluster)["leader"]).removeprefix("rabbit@")
    assert leader in NODES
    cluster.compose("kill", leader)
    await eventually(lambda: cluster.settled("leaderless", MESSAGES), 180)


def queue(stack: Stack) -> dict[str, Any]:
    """What the cluster says of the bulk queue, asked of a node that lives; empty while nobody has declared it."""
    listing = ("rabbitmqctl", "-q", "list_queues", "name", "leader", "members", "--formatter", "json")
    queues = json.loads(stack.compose("exec", "-T", "rabbitmq", *listing))
    return next((q for q in queues if q["name"] == "sms_queue"), {})
