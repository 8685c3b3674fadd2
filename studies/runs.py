"""The end of every measurement: it counts only if no message was lost or counted twice."""

from common.broker.topology import Topology
from common.ledger.redis import RedisLedger
from studies.process import BenchmarkFailed
from tests.servers import RabbitServer


async def audit(ledger: RedisLedger, rabbit: RabbitServer, queue: str, run: str, messages: int) -> None:
    """Raises BenchmarkFailed unless each message is sent or failed, once, and nothing is left in a queue."""
    now, counted = await ledger.snapshot(run), await ledger.recount(run)
    exact = now.published == now.settled == messages and now.sending == now.queued == 0
    proven = counted == {name: getattr(now, name) for name in ("published", "sending", "sent", "failed")}
    waiting = sum(rabbit.queue_depths(*queue_names(queue)).values())
    if not (exact and proven and waiting == 0):
        raise BenchmarkFailed(f"run {run} does not add up: {now}, recount {counted}, {waiting} bodies left")


def queue_names(queue: str) -> list[str]:
    """The queues that a pipeline of this QUEUE_NAME has."""
    return [one.name for one in Topology(queue).standing]
