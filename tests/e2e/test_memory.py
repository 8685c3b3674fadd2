"""The producer's memory, in a process of its own."""

import os
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import ROOT, run_to_end

MESSAGES = 1_000_000
LIMIT_KIB = 150 * 1024
# The kernel's high-water mark of this process alone: ru_maxrss would begin with that of the process that started it.
PEAK = Path("/proc/self/status")

SCRIPT = f"""
import asyncio
import uvloop
from common.broker.memory import MemoryBroker
from common.ledger.memory import MemoryLedger
from common.messages import Lane
from common.publishing.random import RandomSource
from common.publishing.run import Job, RunPublisher

async def drain(broker):
    subscription = await broker.subscribe(Lane.BULK, 1000)
    while True:
        for delivery in await subscription.take():
            delivery.ack()

async def main():
    broker, ledger = MemoryBroker(capacity=10_000), MemoryLedger()
    drain_task = asyncio.create_task(drain(broker))
    job = Job(run="run", source=RandomSource({MESSAGES}, 1), batch_size=100, lane=Lane.BULK)
    await RunPublisher(broker, ledger, job).publish()
    drain_task.cancel()
    assert (await ledger.snapshot("run")).published == {MESSAGES}

uvloop.run(main())
print(open("{PEAK}").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.skipif(not PEAK.exists(), reason="the peak of one process is told by Linux only")
def test_a_million_messages_in_constant_memory() -> None:
    """A producer of 1,000,000 messages to a broker that is drained as it goes never holds more than 150 MiB."""
    done = run_to_end([sys.executable, "-c", SCRIPT], ROOT, dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < LIMIT_KIB
