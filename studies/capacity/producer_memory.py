"""Shows that the producer's memory is constant: publishes 10,000,000 messages to a memory broker that is drained.

Prints elapsed time and peak memory as JSON; exits with 1 if the peak is over the limit. `--num-messages` for others.
"""

import asyncio
import json
import resource
import sys
import time

from common.broker.memory import MemoryBroker
from common.broker.port import Subscription
from common.cli import EXIT_DONE, EXIT_FAILED, Parser, whole
from common.ledger.memory import MemoryLedger
from common.messages import MAX_BATCH_MESSAGES, Lane, new_run_id
from common.publishing.publish import Producer
from common.publishing.random_source import RandomSource

LIMIT_MB = 150
PREFETCH = 1_000


def main() -> int:
    """Reads the arguments, publishes, and prints one JSON object."""
    parser = Parser("studies.capacity.producer_memory", "Measures the producer's memory over a long run.")
    parser.add_argument("--num-messages", type=whole(1), default=10_000_000)
    parser.add_argument("--batch-size", type=whole(1, MAX_BATCH_MESSAGES), default=100)
    args = parser.parse_args()
    began = time.monotonic()
    drained = asyncio.run(_publish(args.num_messages, args.batch_size))
    peak_mb = _peak_mb()
    report = {
        "messages": args.num_messages,
        "batches_drained": drained,
        "elapsed_s": round(time.monotonic() - began, 1),
        "peak_rss_mb": round(peak_mb, 1),
        "limit_mb": LIMIT_MB,
    }
    print(json.dumps(report))
    return EXIT_DONE if peak_mb <= LIMIT_MB else EXIT_FAILED


async def _publish(messages: int, batch_size: int) -> int:
    """Publishes all; gives how many batches were drained."""
    broker, ledger, run, source = MemoryBroker(), MemoryLedger(), new_run_id(), RandomSource(messages, seed=1)
    await ledger.begin(run, "", messages, "benchmark")
    drained = [0]
    draining = asyncio.create_task(_drain(await broker.subscribe(Lane.BULK, PREFETCH), drained))
    try:
        await Producer(broker, ledger).publish(run, source, batch_size, Lane.BULK)
        while (await broker.depths())["sms_queue"]:
            await asyncio.sleep(0)
    finally:
        draining.cancel()
        await broker.close()
    return drained[0]


async def _drain(subscription: Subscription, drained: list[int]) -> None:
    while True:
        for delivery in await subscription.take():
            delivery.ack()
            drained[0] += 1


def _peak_mb() -> float:
    """The largest resident set of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
