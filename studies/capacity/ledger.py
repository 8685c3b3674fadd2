"""The memory of a run in Redis and the cost of its snapshot, against the number of its messages."""

import json
import time

import msgspec
import numpy as np

from common.ledger.redis import RedisLedger
from common.ledger.values import Outcomes
from common.messages import Outcome
from common.redis import Client
from common.statistics import statistics
from studies import runs
from tests.servers import RedisServer

RUN = "a-run"


class LedgerFigure(msgspec.Struct, frozen=True, kw_only=True):
    """A settled run in Redis.

    Attributes:
        messages: How many messages it has.
        redis_bytes, bytes_per_message: The memory it takes, in all and for a message.
        snapshot_cpu_us, snapshot_redis_cpu_us: CPU time of a monitor and of Redis for a snapshot.
    """

    messages: int
    redis_bytes: int
    bytes_per_message: float
    snapshot_cpu_us: int
    snapshot_redis_cpu_us: int


async def ledger_of_size(server: RedisServer, messages: int) -> LedgerFigure:
    """A settled run, a tenth of whose messages failed. Raises StudyFailed unless it adds up."""
    server.flush()
    client = Client(server.settings)
    ledger = RedisLedger(client)
    try:
        before = await _used_bytes(client)
        await _settled_run(ledger, messages)
        used = await _used_bytes(client) - before
        await runs.audit(ledger, RUN, messages)
        ours_us, redis_us = await _snapshot_us(ledger, client)
    finally:
        await ledger.close()
    return LedgerFigure(
        messages=messages,
        redis_bytes=used,
        bytes_per_message=round(used / messages, 3),
        snapshot_cpu_us=ours_us,
        snapshot_redis_cpu_us=redis_us,
    )


async def _settled_run(ledger: RedisLedger, messages: int, block: int = 10_000) -> None:
    await ledger.begin(RUN, "", messages, "benchmark")
    draw = np.random.default_rng(1)
    for first in range(0, messages, block):
        seqs = np.arange(first, min(first + block, messages))
        failed = draw.random(seqs.size) < 0.1
        outcomes = np.where(failed, np.uint8(Outcome.FAILED), np.uint8(Outcome.SENT))
        times_us = draw.normal(1e6, 1e5, seqs.size).astype(np.int64)
        await ledger.announce(RUN, first, seqs.size)
        await ledger.claim(RUN, seqs, redelivered=False)
        await ledger.settle(RUN, Outcomes(seqs, outcomes, times_us), "a-sender")


async def _snapshot_us(ledger: RedisLedger, client: Client, snapshots: int = 1_000) -> tuple[int, int]:
    """CPU time of a monitor and of Redis for one interval of the monitor, in microseconds."""
    redis_before, ours_before = await _redis_cpu_s(client), time.process_time()
    for _ in range(snapshots):
        json.dumps(statistics(await ledger.snapshot(RUN)).as_json())
    ours_s = time.process_time() - ours_before
    redis_s = await _redis_cpu_s(client) - redis_before
    return round(ours_s * 1e6 / snapshots), round(redis_s * 1e6 / snapshots)


async def _used_bytes(client: Client) -> int:
    return int((await client.info("memory"))["used_memory"])


async def _redis_cpu_s(client: Client) -> float:
    cpu = await client.info("cpu")
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])
