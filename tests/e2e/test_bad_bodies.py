"""What strangers put into the queue, straight over AMQP."""

import json
from typing import Any

import pika

from tests.e2e.pipeline import Pipeline
from tests.waiting import eventually

GOOD = {"run": "stranger", "attempt": 1, "track": False, "messages": [[0, "+358401234567", "text"]]}

POISON = {
    "no JSON": b"not json",
    "no UTF-8": b'{"run": "\xff"}',
    "empty body": b"",
    "no messages": json.dumps({**GOOD, "messages": []}).encode(),
    "missing field": json.dumps({"run": "stranger"}).encode(),
    "bad run": json.dumps({**GOOD, "run": "No Such Name"}).encode(),
    "seq below 0": json.dumps({**GOOD, "messages": [[-1, "+358401234567", "text"]]}).encode(),
    "seq twice": json.dumps({**GOOD, "messages": [[5, "+358401234567", ""]] * 2}).encode(),
    "text too long": json.dumps({**GOOD, "messages": [[0, "+358401234567", "x" * 1601]]}).encode(),
    "too many": json.dumps({**GOOD, "messages": [[i, "+358401234567", ""] for i in range(10_001)]}).encode(),
    "too large": b" " * (1024 * 1024 + 1),
}


async def test_poison_bodies_are_rejected_and_the_sender_goes_on(pipeline: Pipeline) -> None:
    """Bodies that are no batch go to `<queue>.rejected` with a reason, are counted, and hold nothing up."""
    sender = pipeline.sender(MEAN_PROCESSING_TIME=0.01, FAILURE_RATE=0)
    await eventually(lambda: sender.logged("sender_started"))
    _publish(pipeline, *POISON.values())
    await pipeline.published("--num-messages", 20, "--run", "after-it")

    await pipeline.settled("after-it", 20)
    await eventually(lambda: pipeline.hash("sms:stats").get("rejected") == len(POISON))

    await eventually(lambda: pipeline.depths()[f"{pipeline.queue}.rejected"] == len(POISON))
    found = _take_rejected(pipeline, len(POISON))
    assert {body for body, _ in found} == set(POISON.values())
    assert all(reason for _, reason in found)
    assert not any("358401234567" in reason for _, reason in found)
    assert "358401234567" not in sender.stdout
    now = await pipeline.assert_exact("after-it", 20, [sender])
    assert now.sent == 20
    assert not pipeline.redis.exists("sms:run:stranger")


async def test_a_bad_number_fails_alone(pipeline: Pipeline) -> None:
    """In a batch of a stranger's, one number is no E.164: that message is failed, the rest are sent, all counted."""
    numbers = ["+358401234567"] * 9 + ["0401234567"]
    batch = {**GOOD, "messages": [[seq, number, "text"] for seq, number in enumerate(numbers)]}
    sender = pipeline.sender(MEAN_PROCESSING_TIME=0.01, FAILURE_RATE=0)
    await eventually(lambda: sender.logged("sender_started"))

    _publish(pipeline, json.dumps(batch).encode())

    await eventually(lambda: pipeline.redis.exists("sms:run:stranger"))
    now = await pipeline.assert_exact("stranger", 10, [sender])
    assert (now.sent, now.failed) == (9, 1)


def _publish(pipeline: Pipeline, *bodies: bytes) -> None:
    channel = pipeline.channel()
    channel.confirm_delivery()
    for body in bodies:
        channel.basic_publish("", pipeline.queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)
    channel.connection.close()


def _take_rejected(pipeline: Pipeline, wanted: int) -> list[tuple[bytes, str]]:
    """The rejected bodies, each with its header `x-reason`."""
    channel: Any = pipeline.channel()
    found = []
    for _ in range(wanted):
        _, properties, body = channel.basic_get(f"{pipeline.queue}.rejected", auto_ack=True)
        found.append((body, properties.headers["x-reason"]))
    channel.connection.close()
    return found
