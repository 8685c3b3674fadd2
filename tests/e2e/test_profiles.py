"""One profile and one seed give the same result of every message, embedded, distributed, and over HTTP."""

import json
from typing import Any

from tests.e2e.pipeline import Pipeline
from tests.runners import free_port
from tests.waiting import eventually

MESSAGES = 600
SAME = ("sent", "failed", "retried")


async def test_a_profile_plays_the_same_everywhere(pipeline: Pipeline) -> None:
    """Sent, failed and retried are equal; so are the processing times where both are simulated."""
    (pipeline.folder / "quick.yaml").write_text(
        "mean_s: 0.02\nstddev_s: 0.005\nretry: 0.2\nfailed: 0.05\nthrottled: 0.1\nretry_after_s: 0.3\n"
        "windows:\n  - {from_s: 3600, to_s: 7200, retry: 0.8}\n"
    )
    pipeline.use(SEED=11, MAX_ATTEMPTS=3, RETRY_BACKOFF=0.2, PROVIDER_PROFILE="quick.yaml")

    embedded = pipeline.start("smsim", "simulate", "--num-messages", MESSAGES, "--senders", 50, "--json")
    assert await embedded.ended() == 0, embedded.stderr
    expected: dict[str, Any] = json.loads(embedded.stdout)
    assert expected["failed"] > 20
    assert expected["retried"] > 100

    senders = [pipeline.sender(SENDER_CONCURRENCY=40) for _ in range(2)]
    await pipeline.published("--num-messages", MESSAGES, "--batch-size", 7, "--run", "distributed")
    await pipeline.assert_exact("distributed", MESSAGES, senders)
    now = await pipeline.statistics("distributed")
    assert {name: now[name] for name in SAME} == {name: expected[name] for name in SAME}
    assert now["avg_time_s"] == expected["avg_time_s"]

    port = free_port()
    provider = pipeline.start("smsim", "provider", "--port", port, "--record", "record.txt")
    await eventually(lambda: provider.logged("provider_listening"))
    sender = pipeline.sender(
        PROVIDER="http", PROVIDER_URL=f"http://127.0.0.1:{port}/sms", PROVIDER_PROFILE=""
    )
    await pipeline.published("--num-messages", MESSAGES, "--batch-size", 20, "--run", "http")
    over = await pipeline.assert_exact("http", MESSAGES, [sender])
    assert {name: getattr(over, name) for name in SAME} == {name: expected[name] for name in SAME}
    assert over.ambiguous == 0
    record = [line.split()[0] for line in (pipeline.folder / "record.txt").read_text().splitlines()]
    assert len(record) == len(set(record)) == over.sent
