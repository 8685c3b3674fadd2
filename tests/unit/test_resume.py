"""A run that is resumed goes on as it was begun, unless its user says otherwise."""

import pytest

from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.messages import Lane
from common.publishing.random import RandomSource
from common.publishing.run import Job
from producer.cli import Producer


@pytest.mark.parametrize("rate", [None, 5.0])
async def test_a_resumed_run_keeps_its_rate_and_batch_size(rate: float | None) -> None:
    """Both are in the recipe. Others may be given, such as a batch size that fits RabbitMQ's size limit."""
    ledger, source = MemoryLedger(), RandomSource(100, seed=1)
    first = Producer(MemoryBroker(), ledger, "sms_queue")
    job = Job(run="run", source=source, batch_size=10, lane=Lane.URGENT, rate_per_s=rate)
    await first.begin(job, source.recipe(10, Lane.URGENT))
    for batch_size, rate_per_s, resumed in ((None, None, (10, rate)), (3, 7.0, (3, 7.0))):
        await first.leave("run")
        first = Producer(MemoryBroker(), ledger, "sms_queue")
        again = await first.resume("run", batch_size, rate_per_s)
        assert (again.batch_size, again.rate_per_s) == resumed
        assert (again.lane, again.source.count) == (Lane.URGENT, 100)
