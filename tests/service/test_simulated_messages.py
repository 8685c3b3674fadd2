"""Messages that are only simulated never reach the provider that really sends: not in a retry, nor after a replay."""

import asyncio

from common.broker.memory import MemoryBroker
from common.broker.port import ParkedQueue
from common.ledger.memory import MemoryLedger
from common.messages import Batch, Lane, Message, Outcome, decode_batch
from common.publishing.recipes import origin_in
from gateway.acceptance.port import Owner
from gateway.acceptance.recipes import recipe_of_singles
from sender.copies import RetryPolicy
from sender.providers.bulk import Sends
from sender.providers.profiles import Profile
from sender.providers.simulated import SimulatedProvider
from sender.providers.split import SplitProvider
from sender.service import Sender
from tests.service.test_upkeep import Bench
from tests.waiting import eventually

COUNT = 20


class Real:
    """A provider that really sends: it notes the runs."""

    reads_messages = True

    def __init__(self) -> None:
        self.runs: list[str] = []

    def start(self, sends: Sends) -> None:
        self.runs.append(sends.run)
        sends.outcomes[:] = Outcome.SENT
        sends.finish(0, sends.seqs.size)

    async def close(self) -> None:
        return


def batch_of(run: str, **more: bool) -> Batch:
    messages = [Message(seq, "+358401234567", "text") for seq in range(COUNT)]
    return Batch(run=run, messages=messages, **more)


async def test_they_are_simulated_whatever_the_provider_is() -> None:
    """Others are really sent. A retry of a simulated message is simulated as well."""
    broker, ledger, real, stop = MemoryBroker(), MemoryLedger(), Real(), asyncio.Event()
    provider = SplitProvider(real, SimulatedProvider(Profile(mean_s=0, retry=0.5), seed=1))
    sender = Sender("s", broker, ledger, provider, slots=50, policy=RetryPolicy(3, 0.01))
    running = asyncio.create_task(sender.run(stop))
    await broker.publish(batch_of("simulated", simulated=True), Lane.BULK)
    await broker.publish(batch_of("real"), Lane.BULK)

    async def settled() -> bool:
        return (await ledger.snapshot()).settled == 2 * COUNT

    await eventually(settled)
    stop.set()
    await running
    assert real.runs == ["real"]
    assert (await ledger.snapshot("simulated")).retried > 0


async def test_a_replay_keeps_the_mark_and_the_owner() -> None:
    """A replayed message is simulated as the failed one was, and belongs to the same API key."""
    bench = Bench()
    recipe = recipe_of_singles(Lane.BULK, "sms_queue", Owner("akey", simulated=True))
    await bench.ledger.begin("a-run", recipe, COUNT, "p")
    await bench.ledger.announce("a-run", 0, COUNT)
    await bench.broker.publish(batch_of("a-run", simulated=True), Lane.BULK)
    await bench.ledger.confirm("a-run", COUNT)
    await bench.send_all(["a-run"], failure_rate=1)
    (replayed,) = await bench.replay(ParkedQueue.FAILED)
    bodies = [decode_batch(held.body)[0] for held in bench.broker.queues[Lane.BULK].bodies]
    assert [batch.simulated for batch in bodies] == [True] * len(bodies)
    assert origin_in((await bench.ledger.publication(replayed.run)).recipe).owner == "akey"
