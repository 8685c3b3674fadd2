"""common/broker/topology.py: the queues as data."""

import pytest

from common.broker.port import ParkedQueue
from common.broker.topology import DELIVERY_LIMIT, RETRY_RUNGS_S, Topology
from common.messages import Lane

QUORUM = Topology("sms_queue")
CLASSIC = Topology("sms_queue", "classic")


def test_queue_names() -> None:
    """The names that operators see in RabbitMQ."""
    assert QUORUM.lane(Lane.BULK).name == "sms_queue"
    assert QUORUM.lane(Lane.URGENT).name == "sms_queue.urgent"
    assert QUORUM.rejected.name == "sms_queue.rejected"
    assert QUORUM.failed.name == "sms_queue.failed"
    assert QUORUM.retry(Lane.BULK, 1).name == "sms_queue.retry.bulk.1000ms"
    assert QUORUM.retry(Lane.URGENT, 0.125).name == "sms_queue.retry.urgent.125ms"


@pytest.mark.parametrize("lane", Lane)
def test_a_quorum_lane_never_drops_a_message(lane: Lane) -> None:
    """The delivery limit is a million on every version, and what meets it is dead-lettered, not dropped."""
    assert QUORUM.lane(lane).arguments == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 1_000_000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "sms_queue.rejected",
    }


@pytest.mark.parametrize("lane", Lane)
def test_a_classic_lane_has_no_quorum_arguments(lane: Lane) -> None:
    """RabbitMQ refuses a classic queue with a delivery limit."""
    assert CLASSIC.lane(lane).arguments == {"x-queue-type": "classic"}


@pytest.mark.parametrize("queue", ParkedQueue)
def test_arguments_of_the_parked_queues(queue: ParkedQueue) -> None:
    """Looking through a queue twenty times drops nothing on 4.x."""
    assert QUORUM.parked(queue).arguments == {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
    assert CLASSIC.parked(queue).arguments == {"x-queue-type": "classic"}


def test_each_lane_and_parked_queue_has_its_queue() -> None:
    """Asked for by what it is for, a queue is the one of that purpose."""
    assert QUORUM.parked(ParkedQueue.FAILED) == QUORUM.of(ParkedQueue.FAILED) == QUORUM.failed
    assert QUORUM.parked(ParkedQueue.REJECTED) == QUORUM.of(ParkedQueue.REJECTED) == QUORUM.rejected
    assert [QUORUM.of(lane) for lane in Lane] == [QUORUM.lane(lane) for lane in Lane]


@pytest.mark.parametrize("topology", [QUORUM, CLASSIC])
@pytest.mark.parametrize("lane", Lane)
def test_a_retry_queue_loses_nothing_on_the_way_back(topology: Topology, lane: Lane) -> None:
    """Quorum whatever the lanes are, dead-lettered at least once, and full rather than lossy."""
    assert topology.retry(lane, 4).arguments == {
        "x-queue-type": "quorum",
        "x-message-ttl": 4_000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": topology.lane(lane).name,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-delivery-limit": DELIVERY_LIMIT,
    }


@pytest.mark.parametrize("rung", RETRY_RUNGS_S)
def test_delays_round_up_to_a_rung(rung: float) -> None:
    """A batch never comes back early: its wait is the next power of two, itself included."""
    assert QUORUM.retry(Lane.BULK, rung).arguments["x-message-ttl"] == rung * 1000
    assert QUORUM.retry(Lane.BULK, rung * 0.51).arguments["x-message-ttl"] == rung * 1000


def test_rungs_are_the_powers_of_two_from_an_eighth_of_a_second_to_512() -> None:
    """Few enough for a queue each, and all whole milliseconds."""
    assert RETRY_RUNGS_S == (0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@pytest.mark.parametrize(("after", "milliseconds"), [(0.001, 125), (512.5, 512_000), (1e9, 512_000)])
def test_delays_beyond_the_ladder_take_its_ends(after: float, milliseconds: int) -> None:
    """Shorter than the lowest rung is the lowest; longer than the highest is the highest."""
    assert QUORUM.retry(Lane.BULK, after).arguments["x-message-ttl"] == milliseconds


def test_all_retry_queues_are_those_that_a_delay_can_lead_to() -> None:
    """One for each lane and rung: whoever looks into all of them misses none."""
    reachable = {QUORUM.retry(lane, after).name for lane in Lane for after in (0.01, *RETRY_RUNGS_S, 1e9)}
    names = [queue.name for queue in QUORUM.retries()]
    assert len(names) == len(reachable) == 26
    assert set(names) == reachable


def test_what_stands_from_the_start() -> None:
    """Both lanes and the rejected queue, which the lanes point to, are declared before anything is consumed."""
    names = [queue.name for queue in QUORUM.standing]
    assert names == ["sms_queue.rejected", "sms_queue", "sms_queue.urgent"]
