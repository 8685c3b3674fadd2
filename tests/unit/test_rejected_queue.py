"""The monitor adds what is in RabbitMQ's rejected queue, and goes on without RabbitMQ."""

import pytest

from common.ledger.values import Snapshot
from common.settings import load_settings
from monitor.rejected import RejectedQueue, Timing


async def test_without_rabbitmq_the_statistics_are_the_ledgers(
    unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, however often it is asked."""
    settings = load_settings(rabbitmq_host="127.0.0.1", rabbitmq_port=unused_tcp_port)
    now = Snapshot(published=5, rejected=3)
    async with RejectedQueue(settings, Timing(missing_s=0)) as rejected:
        for _ in range(3):
            assert await rejected.complete(now) == now
    assert caplog.messages.count("rejected_queue_unknown") == 1


class Asked(RejectedQueue):
    """Finds what the test says."""

    found: int | None = None

    async def _ask(self) -> int | None:
        return self.found


async def test_the_larger_of_counter_and_queue_is_shown() -> None:
    """Bodies that a sender rejected are in both; those that RabbitMQ moved there, and those replayed, are in one."""
    async with Asked(load_settings(), Timing(every_s=0, missing_s=0)) as rejected:
        for rejected.found, counted, shown in ((None, 3, 3), (20, 3, 20), (20, 25, 25), (0, 3, 3)):
            assert (await rejected.complete(Snapshot(rejected=counted))).rejected == shown
